"""What every runtime offers: prepared batches in, rows of answers out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class RuntimeFailure(Exception):  # noqa: N818 - named by the design, beside `Runtime`
    """The runtime could not load or run its network; runtimes raise nothing else."""


class OutOfMemory(RuntimeFailure):
    """The batch did not fit; a smaller one may."""


class Runtime(Protocol):
    """Runs prepared batches; knows no HTTP. Fails only with `RuntimeFailure`.

    One thread at a time calls `run`.
    """

    name: str
    """Which runtime, e.g. `onnxruntime`."""
    device: str
    """Where it really runs, e.g. `cpu` or `cuda:0`."""

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer row i of the input in row i of the output.

        Args:
            rgb: uint8 (B, H, W, 3).
            aux: float32 (B, H, W, 1) in [0, 1], the partner of each row.

        Returns:
            float32 (B, H, W) for saliency, (B, D) for embeddings.
        """
        ...

    def close(self) -> None:
        """Free the network; `run` must not be called again."""
        ...


def bucket_of(rows: int) -> int:
    """The least power of two that holds `rows`: runtimes that prepare each size prepare these."""
    return 1 << (rows - 1).bit_length()
