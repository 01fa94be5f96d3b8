"""One training sample, and how samples become batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler


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


def drop_modalities(
    rgb: Tensor, aux: Tensor, drop_aux: float, drop_rgb: float
) -> tuple[Tensor, Tensor]:
    """Take a modality from some samples of a batch: it becomes 0 everywhere. Never both.

    Args:
        rgb: uint8 (B, H, W, 3).
        aux: float32 (B, H, W, 1).
        drop_aux: probability that a sample loses `aux`.
        drop_rgb: probability that one which has it loses `rgb`.
    """
    if not drop_aux and not drop_rgb:
        return rgb, aux
    chance = torch.rand(2, len(rgb), 1, 1, 1)
    gone = chance[0] < drop_aux
    dark = ~gone & (chance[1] < drop_rgb)
    return rgb * ~dark.to(rgb.device), aux * ~gone.to(aux.device)


Modality = Literal["rgb", "aux"]


def without_modality(rgb: Tensor, aux: Tensor, gone: Modality | None) -> tuple[Tensor, Tensor]:
    """A batch as `drop_modalities` takes it, in which no sample has `gone`: it is 0 everywhere."""
    if gone == "rgb":
        return torch.zeros_like(rgb), aux
    if gone == "aux":
        return rgb, torch.zeros_like(aux)
    return rgb, aux


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack B samples of one size, in their order; shapes and ranges as in `Batch`."""
    rgb, aux, gt = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Batch(torch.from_numpy(rgb), torch.from_numpy(aux), torch.from_numpy(gt)[:, None])


@dataclass(frozen=True)
class Draw:
    """How an endless data set draws: sample i is a pure function of (seed, i)."""

    sizes: tuple[int, ...]
    """Heights of the samples in pixels; one is drawn per batch."""
    batch_size: int
    """Samples of one step, over all processes; i with equal `i // batch_size` share a size."""
    seed: int
    """Of everything drawn."""
    aspect: float = 1.0
    """Width over height of the samples."""

    def rng(self, index: int) -> np.random.Generator:
        """Where all chance of sample `index` comes from."""
        return np.random.default_rng((self.seed, 0, index))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of sample `index`."""
        rng = np.random.default_rng((self.seed, 1, index // self.batch_size))
        height = self.sizes[int(rng.integers(len(self.sizes)))]
        return height, round(height * self.aspect / 16) * 16

    def shuffled(self, index: int, count: int) -> int:
        """Which of `count` items sample `index` is, in an order shuffled anew each epoch."""
        epoch, position = divmod(index, count)
        order = np.random.default_rng((self.seed, 3, epoch)).permutation(count)
        return int(order[position])


class Steps(Sampler[list[int]]):
    """Batches of indices for steps `start` to `stop`: step s owns [s * n, (s + 1) * n).

    n counts the samples of all processes and of all `accumulate` batches of a step.

    With samples that are pure functions of their index, resuming at a step repeats nothing and
    skips nothing. Each of `world_size` processes takes its own share of a step.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.start, self.stop = start, stop
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world_size = rank, world_size

    @property
    def samples_per_step(self) -> int:
        """Over all processes."""
        return self.batch_size * self.accumulate * self.world_size

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        """Yield `accumulate` lists of indices per step."""
        for part in range(self.start * self.accumulate, self.stop * self.accumulate):
            first = (part * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def loader(
    samples: Any, steps: Steps, collate: Callable[[Any], Any], workers: int
) -> DataLoader[Any]:
    """Batches of `steps`, prepared ahead by `workers` processes of one thread.

    Args:
        samples: answers sample i as `samples[i]`, without end.
        steps: which samples make each batch.
        collate: a list of samples -> a batch.
        workers: 0 prepares samples in the calling process.
    """
    if workers:
        # Workers are forks: one that inherits OpenCV's threads as locks may wait for them for ever.
        cv2.setNumThreads(1)
    return DataLoader(
        samples,
        batch_sampler=steps,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if workers else None,
    )


def _prepare_worker(_worker: int) -> None:
    """One thread each, and signals are the training process's to handle."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
