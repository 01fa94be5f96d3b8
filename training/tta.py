"""Test-time augmentation: answers of mirrored and resized pictures, averaged.

It costs a run for each, and belongs beside the plain numbers, never in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.checkpoint import load_checkpoint
from model.config import ReIDConfig, Task
from model.runtimes.base import Runtime

Batch = NDArray[Any]

SCALES = (0.75, 1.0, 1.25)
"""Of `--multi-scale`."""


class Averaged:
    """A runtime that asks another for each mirror image and scale.

    Maps are mirrored back, resized and averaged; embeddings are averaged and made unit length.

    Args:
        runtime: what is asked; for other scales it must take pictures of any size.
        task: whose answers they are.
        flip: whether mirror images are asked for, too.
        scales: factors on height and width, which are rounded to multiples of 32.
    """

    def __init__(
        self, runtime: Runtime, task: Task, *, flip: bool, scales: Sequence[float] = (1.0,)
    ) -> None:
        self.runtime, self.task = runtime, task
        self.flips, self.scales = (False, True) if flip else (False,), tuple(scales)
        self.name, self.device = runtime.name, runtime.device

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer as the runtime within; see `Runtime.run`."""
        answers = [
            self._answer(rgb, aux, flip, scale) for scale in self.scales for flip in self.flips
        ]
        mean = np.mean(answers, axis=0, dtype=np.float64)
        if self.task == "reid":
            mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
        return np.asarray(mean, np.float32)

    def _answer(self, rgb: Batch, aux: Batch, flip: bool, scale: float) -> NDArray[np.float32]:
        height, width = rgb.shape[1:3]
        size = (_rounded(height, scale), _rounded(width, scale))
        if size != (height, width):
            rgb, aux = _resized(rgb, size), _resized(aux[..., 0], size)[..., None]
        if flip:
            rgb, aux = (np.ascontiguousarray(x[:, :, ::-1]) for x in (rgb, aux))
        answer = self.runtime.run(rgb, aux)
        if self.task == "reid":
            return np.asarray(answer)
        if flip:
            answer = answer[:, :, ::-1]
        return np.asarray(answer if size == (height, width) else _resized(answer, (height, width)))

    def close(self) -> None:
        """Close the runtime within."""
        self.runtime.close()


def averaged(
    runtime: Runtime, model: Path, task: Task, *, flip: bool, multi_scale: bool
) -> Runtime:
    """A model's runtime with the augmentation that is asked for; without any, itself.

    Raises:
        ValueError: several scales, but the model takes one size: a bundle, or a `vit`.
    """
    if not flip and not multi_scale:
        return runtime
    if multi_scale:
        config = None if model.is_dir() else load_checkpoint(model).config
        if config is None or (isinstance(config, ReIDConfig) and config.trunk == "vit"):
            raise ValueError(f"{model} takes one size: several need a checkpoint with a cnn trunk")
    return Averaged(runtime, task, flip=flip, scales=SCALES if multi_scale else (1.0,))


def _rounded(side: int, scale: float) -> int:
    return side if scale == 1 else max(round(side * scale / 32), 1) * 32


def _resized(values: Batch, size: tuple[int, int]) -> Batch:
    """Each picture of (B, H, W[, C]) bilinearly at (height, width)."""
    resized = [cv2.resize(np.ascontiguousarray(x), size[::-1]) for x in values]
    return np.stack(resized)
