"""One training sample, and how samples become batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler


class Sample(NamedTuple):
    """A pair and its mask."""

    rgb: NDArray[np.uint8]
    """uint8 (H, W, 3)."""
    aux: NDArray[np.float32]
    """float32 (H, W, 1) in [0, 1], near = 1, missing = 0."""
    gt: NDArray[np.float32]
    """float32 (H, W), 0 or 1."""


class Batch(NamedTuple):
    """Samples of one size, stacked."""

    rgb: Tensor
    """uint8 (B, H, W, 3)."""
    aux: Tensor
    """float32 (B, H, W, 1)."""
    gt: Tensor
    """float32 (B, 1, H, W)."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    rgb, aux, gt = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Batch(torch.from_numpy(rgb), torch.from_numpy(aux), torch.from_numpy(gt)[:, None])


@dataclass(frozen=True)
class Draw:
    """How an endless data set draws: sample i is a pure function of (seed, i)."""

    sizes: tuple[int, ...]
    """Sides of the square samples in pixels; one is drawn per batch."""
    batch_size: int
    """Samples of one step, over all processes; i with equal `i // batch_size` share a size."""
    seed: int
    """Of everything drawn."""

    def rng(self, index: int) -> np.random.Generator:
        """Where all chance of sample `index` comes from."""
        return np.random.default_rng((self.seed, 0, index))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of sample `index`."""
        rng = np.random.default_rng((self.seed, 1, index // self.batch_size))
        side = self.sizes[int(rng.integers(len(self.sizes)))]
        return side, side

    def shuffled(self, index: int, count: int) -> int:
        """Which of `count` items sample `index` is, in an order shuffled anew each epoch."""
        epoch, position = divmod(index, count)
        order = np.random.default_rng((self.seed, 3, epoch)).permutation(count)
        return int(order[position])


class Steps(Sampler[list[int]]):
    """Batches of indices for steps `start` to `stop`: step s owns [s * n, (s + 1) * n).

    With samples that are pure functions of their index, resuming at a step repeats nothing and
    skips nothing. Each of `world_size` processes takes its own share of a step.
    """

    def __init__(
        self, start: int, stop: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.start, self.stop = start, stop
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        """Yield one list of indices per step."""
        for step in range(self.start, self.stop):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
