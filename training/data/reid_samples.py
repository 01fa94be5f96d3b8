"""Crops as batches of P identities with K pictures each, and as they are for judging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.preprocessing import prepare_nir, prepare_rgb
from training.data.reid_augment import damage_one, geometry, vary
from training.data.reid_sets import Crop, read_pair
from training.data.sample import Draw
from training.metrics import Embedded


class ReIDSample(NamedTuple):
    """One crop of a known identity."""

    rgb: NDArray[np.uint8]
    """uint8 (H, W, 3)."""
    aux: NDArray[np.float32]
    """float32 (H, W, 1) in [0, 1]."""
    identity: int
    """Class, from 0."""
    camera: int
    """From 0."""


class ReIDBatch(NamedTuple):
    """Samples of one size, stacked."""

    rgb: Tensor
    """uint8 (B, H, W, 3)."""
    aux: Tensor
    """float32 (B, H, W, 1)."""
    identity: Tensor
    """int64 (B,)."""
    camera: Tensor
    """int64 (B,)."""


def collate_crops(samples: Sequence[ReIDSample]) -> ReIDBatch:
    """Stack B samples of one size, in their order; shapes and ranges as in `ReIDBatch`."""
    rgb, aux, identity, camera = zip(*samples, strict=True)
    return ReIDBatch(
        torch.from_numpy(np.stack(rgb)),
        torch.from_numpy(np.stack(aux)),
        torch.tensor(identity),
        torch.tensor(camera),
    )


@dataclass(frozen=True)
class IdentityDraw:
    """Which crop sample i is: P x K, and a pure function of (seed, i).

    pytorch-metric-learning's `MPerClassSampler` draws the same batches from NumPy's global
    generator, an epoch at a time, so a run that resumes could not draw them again.
    """

    batch_size: int
    """Samples per step and process, P * K; i with equal `i // batch_size` are one batch."""
    instances: int
    """K, the pictures of an identity in a batch; an identity with fewer repeats them."""
    seed: int

    def __call__(self, index: int, by_identity: Sequence[Sequence[Crop]]) -> tuple[int, Crop]:
        """The class of sample `index`, and its crop.

        Each epoch visits the identities in a new order and leaves the few out that do not fill
        its last batch. The K pictures differ while there are others.
        """
        batch, position = divmod(index, self.batch_size)
        slot, repeat = divmod(position, self.instances)
        P = self.batch_size // self.instances
        epoch, turn = divmod(batch, len(by_identity) // P)
        order = np.random.default_rng((self.seed, 4, epoch)).permutation(len(by_identity))
        identity = int(order[turn * P + slot])
        crops = by_identity[identity]
        shuffled = np.random.default_rng((self.seed, 5, batch, slot)).permutation(len(crops))
        return identity, crops[int(shuffled[repeat % len(crops)])]


class TrainCrops:
    """Training samples without end: sample i is a pure function of (seed, i).

    Args:
        crops: of the training identities; classes are their names in order.
        identities: what is drawn.
        draw: sizes and chance.
        synchronous: whether both modalities share their geometry.

    Raises:
        ValueError: too few identities for a batch.
    """

    def __init__(
        self, crops: Sequence[Crop], identities: IdentityDraw, draw: Draw, *, synchronous: bool
    ) -> None:
        by_pid: dict[str, list[Crop]] = {pid: [] for pid in sorted({crop.pid for crop in crops})}
        for crop in crops:
            by_pid[crop.pid].append(crop)
        self.by_identity = list(by_pid.values())
        cameras = sorted({crop.camid for crop in crops})
        self.cameras = {camid: camera for camera, camid in enumerate(cameras)}
        P = identities.batch_size // identities.instances
        if len(self.by_identity) < P:
            raise ValueError(
                f"a batch takes {P} identities, but there are {len(self.by_identity)} to train on"
            )
        self.identities, self.draw, self.synchronous = identities, draw, synchronous

    def __getitem__(self, index: int) -> ReIDSample:
        """Sample `index` of the endless sequence."""
        identity, crop = self.identities(index, self.by_identity)
        rng = self.draw.rng(index)
        rgb, aux = prepare_pair(crop, self.draw.size(index))
        moved = geometry(rgb, aux[..., 0], rng, synchronous=self.synchronous)
        rgb, grey = damage_one(*vary(*moved, rng), rng)
        return ReIDSample(rgb, grey[..., None], identity, self.cameras[crop.camid])


def prepare_pair(
    crop: Crop, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A crop as the service would prepare it: uint8 (H, W, 3), float32 (H, W, 1) in [0, 1]."""
    rgb, nir = read_pair(crop)
    return prepare_rgb(Image.fromarray(rgb), size), prepare_nir(nir, size)


def with_labels(*sets: tuple[NDArray[np.float32], Sequence[Crop]]) -> list[Embedded]:
    """Join embeddings (N, D) with the labels of their crops, identities numbered alike in all."""
    pids = sorted({crop.pid for _, crops in sets for crop in crops})
    numbers = {pid: number for number, pid in enumerate(pids)}
    return [
        Embedded(
            values,
            np.array([numbers[crop.pid] for crop in crops]),
            np.array([crop.camid for crop in crops]),
            np.array([crop.scene for crop in crops]),
        )
        for values, crops in sets
    ]
