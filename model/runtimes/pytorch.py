"""Runs a network in torch; the only runtime that imports it. See `base.Runtime`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.runtimes.base import OutOfMemory, RuntimeFailure, bucket_of

Precision = Literal["fp32", "fp16", "bf16"]

_LOW: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's messages say where it raises no `OutOfMemoryError`."""


class PyTorchRuntime:
    """A network in evaluation mode.

    Args:
        network: takes and answers what `base.Runtime.run` does, as tensors.
        device: a torch device, e.g. `cpu` or `cuda:0`.
        precision: of products and convolutions, by torch's automatic casts.
        compiled: through `torch.compile`; on a GPU with CUDA graphs. The first run of each batch
            bucket takes long: batches are filled up to a power of two.

    Raises:
        OutOfMemory: the network does not fit.
        RuntimeFailure: the device is not there.
    """

    name = "pytorch"

    def __init__(
        self,
        network: nn.Module,
        device: str = "cpu",
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        try:
            network = network.eval().to(device)
            if device.startswith("cuda"):
                network = network.to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise _failure(f"cannot use device {device!r}: {error}", error) from error
        mode = "reduce-overhead" if device.startswith("cuda") else "default"
        self._network: Any = (
            torch.compile(network, mode=mode, dynamic=False) if compiled else network
        )
        self._compiled = compiled
        self._dtype = _LOW.get(precision)
        self.device = device

    @torch.inference_mode()
    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer row i of the input in row i of the output."""
        rows = len(rgb)
        try:
            with torch.autocast(
                self.device.split(":")[0], self._dtype, enabled=self._dtype is not None
            ):
                answer = self._network(self._tensor(rgb), self._tensor(aux))
            result: NDArray[np.float32] = answer[:rows].float().cpu().numpy()
        except RuntimeError as error:
            raise _failure(str(error), error) from error
        return result

    def close(self) -> None:
        """Free the network."""
        del self._network

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        if self._compiled:
            missing = bucket_of(len(array)) - len(array)
            array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        return torch.tensor(array, device=self.device)


def _failure(message: str, error: BaseException) -> RuntimeFailure:
    full = isinstance(error, torch.OutOfMemoryError) or any(
        sign in message.lower() for sign in _NO_MEMORY
    )
    return OutOfMemory(message) if full else RuntimeFailure(message)
