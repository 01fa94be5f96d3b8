"""Runs a network in torch; the only runtime that imports it. See `base.Runtime`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.runtimes.base import RuntimeFailure


class PyTorchRuntime:
    """A network in evaluation mode, eager, in its own precision.

    Args:
        network: takes and answers what `base.Runtime.run` does, as tensors.
        device: a torch device, e.g. `cpu` or `cuda:0`.

    Raises:
        RuntimeFailure: the device is not there.
    """

    name = "pytorch"

    def __init__(self, network: nn.Module, device: str = "cpu") -> None:
        try:
            self._network = network.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise RuntimeFailure(f"cannot use device {device!r}: {error}") from error
        self.device = device

    @torch.inference_mode()
    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer row i of the input in row i of the output."""
        try:
            answer = self._network(
                torch.tensor(rgb, device=self.device), torch.tensor(aux, device=self.device)
            )
        except RuntimeError as error:
            raise RuntimeFailure(str(error)) from error
        result: NDArray[np.float32] = answer.float().cpu().numpy()
        return result

    def close(self) -> None:
        """Free the network."""
        del self._network
