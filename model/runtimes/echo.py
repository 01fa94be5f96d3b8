"""Runtimes without a network: answers are computed from the request, so that mix-ups show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EchoRuntime:
    """Answers the mean of each pixel's grey level and its `aux` value, both in [0, 1]."""

    name = "echo"
    device = "cpu"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`."""
        grey = rgb.mean(axis=-1, dtype=np.float32) / np.float32(255)
        return np.asarray((grey + aux[..., 0]) / 2, np.float32)

    def close(self) -> None:
        """Nothing to free."""


class EchoEmbeddingRuntime:
    """Answers a 1, then R, G, B and `aux` in [0, 1] averaged in 4 x 4 cells, at unit length.

    Height and width must be multiples of 4; an embedding has 65 numbers.
    """

    name = "echo"
    device = "cpu"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`."""
        B, H, W, _ = rgb.shape
        seen = np.concatenate([rgb / np.float32(255), aux], axis=-1)
        cells = seen.reshape(B, 4, H // 4, 4, W // 4, 4).mean(axis=(2, 4), dtype=np.float32)
        values = np.concatenate([np.ones((B, 1), np.float32), cells.reshape(B, -1)], axis=1)
        return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)

    def close(self) -> None:
        """Nothing to free."""
