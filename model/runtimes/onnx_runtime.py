"""ONNX Runtime, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.runtimes.base import OutOfMemory, RuntimeFailure

Device = Literal["cpu", "cuda"]
ProviderPolicy = Literal["strict", "fallback"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INPUTS = {"rgb", "aux"}
_OUT_OF_MEMORY = re.compile(r"failed to allocate|out of memory|bad_alloc|smaller than requested")


class OnnxRuntime:
    """Runs one ONNX graph with inputs `rgb` and `aux` and a single output."""

    name = "onnxruntime"

    def __init__(
        self,
        model_path: Path,
        *,
        device: Device = "cpu",
        provider_policy: ProviderPolicy = "strict",
        threads: int | None = None,
    ) -> None:
        """Load the graph.

        Args:
            model_path: the `.onnx` file.
            device: where it should run.
            provider_policy: `strict` refuses any other device than the one asked for;
                `fallback` takes the CPU and says so in `device`.
            threads: within one operator on a CPU; ONNX Runtime chooses by default.

        Raises:
            RuntimeFailure: the graph does not load, is not of this kind, or the device is absent.
        """
        wanted = _PROVIDERS[device]
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about graph optimisation
        if threads is not None:
            options.intra_op_num_threads = threads
        # Asked for a provider outside its build, onnxruntime warns and gives a CPU session.
        built = ort.get_available_providers()
        providers = [name for name in dict.fromkeys([wanted, _PROVIDERS["cpu"]]) if name in built]
        try:
            self._session: Any = ort.InferenceSession(model_path, options, providers=providers)
        except Exception as error:  # its exceptions share no base but this
            raise RuntimeFailure(f"{model_path}: {error}") from error
        active = self._session.get_providers()
        if wanted not in active and provider_policy == "strict":
            raise RuntimeFailure(
                f"{wanted} did not start; the session has {', '.join(active)}, "
                f"this build of onnxruntime {', '.join(built)}"
            )
        self.device = "cuda:0" if _PROVIDERS["cuda"] in active else "cpu"
        inputs = {each.name for each in self._session.get_inputs()}
        outputs = [each.name for each in self._session.get_outputs()]
        if inputs != _INPUTS or len(outputs) != 1:
            raise RuntimeFailure(
                f"{model_path}: expected inputs rgb and aux and one output, "
                f"got {sorted(inputs)} and {outputs}"
            )

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`."""
        try:
            (output,) = self._session.run(None, {"rgb": rgb, "aux": aux})
        except Exception as error:  # its exceptions share no base but this
            full = _OUT_OF_MEMORY.search(str(error).lower())
            kind = OutOfMemory if full else RuntimeFailure
            raise kind(f"onnxruntime: {error}") from error
        if len(output) != len(rgb):
            raise RuntimeFailure(f"{len(rgb)} rows went in, {len(output)} came out")
        return np.asarray(output, np.float32)

    def close(self) -> None:
        """Free the session."""
        self._session = None
