"""What the training loop needs to know of a task; one loop serves all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.data.sample import Modality


class Task(Protocol):
    """A network, its data, its loss and its judge."""

    network: nn.Module
    """Trained in place."""
    forward_method: str
    """The method of `network` that `loss` calls."""

    facts: dict[str, Any]
    """What was found of the data, as plain values; saved with the run."""

    def loader(self, start: int, stop: int, rank: int, world_size: int) -> DataLoader[Any]:
        """Batches of steps `start` to `stop`, functions of step and rank; `accumulate` a step."""
        ...

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to minimise, and its parts for the log."""
        ...

    def validate(self, network: nn.Module, gone: Modality | None = None) -> dict[str, float]:
        """Scores on the validation split, without `gone`; `score` is the one to maximise."""
        ...

    def save(self, path: Path, network: nn.Module, metrics: dict[str, float]) -> None:
        """Write a checkpoint."""
        ...
