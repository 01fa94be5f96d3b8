"""ONNX Runtime, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

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
_NO_MEMORY = (
    "failed to allocate memory",
    "out of memory",
    "out_of_memory",
    "bad_alloc",
    "smaller than requested",
)
"""What its messages say; its exceptions do not tell."""


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
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Load the graph.

        Args:
            model_path: the `.onnx` file.
            device: where it should run.
            provider_policy: `strict` refuses any other device than the one asked for;
                `fallback` takes the CPU and says so in `device`.
            threads: within one operator on a CPU; ONNX Runtime chooses by default.
            memory_limit_bytes: most that its arena takes of a GPU; all of it by default.

        Raises:
            RuntimeFailure: the graph does not load, is not of this kind, or the device is absent.
        """
        wanted = _PROVIDERS[device]
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about graph optimisation
        # A thread that waits for the others of its operator sleeps: pictures need the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        # Asked for a provider outside its build, onnxruntime warns and gives a CPU session.
        built = ort.get_available_providers()
        settings = {_PROVIDERS["cuda"]: _cuda_settings(memory_limit_bytes)}
        providers = [
            (name, settings.get(name, {}))
            for name in dict.fromkeys([wanted, _PROVIDERS["cpu"]])
            if name in built
        ]
        try:
            self._session: Any = ort.InferenceSession(model_path, options, providers=providers)
        except Exception as error:  # its exceptions share no base but this
            raise _failure(f"{model_path}: {error}") from error
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
        self._output: str = outputs[0]

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`."""
        run = self._run_bound if self.device.startswith("cuda") else self._run
        try:
            output = run({"rgb": rgb, "aux": aux})
        except Exception as error:  # its exceptions share no base but this
            raise _failure(f"onnxruntime: {error}") from error
        if len(output) != len(rgb):
            raise RuntimeFailure(f"{len(rgb)} rows went in, {len(output)} came out")
        return np.asarray(output, np.float32)

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        (output,) = self._session.run(None, inputs)
        return np.asarray(output)

    def _run_bound(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Inputs and output are in the device's memory, out of its arena, and copied once each."""
        kind, _, number = self.device.partition(":")
        place = (kind, int(number or 0))
        binding = self._session.io_binding()
        for name, array in inputs.items():
            on_device = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *place)
            binding.bind_ortvalue_input(name, on_device)
        binding.bind_output(self._output, *place)
        self._session.run_with_iobinding(binding)
        (output,) = binding.copy_outputs_to_cpu()
        return np.asarray(output)


def _cuda_settings(memory_limit_bytes: int | None) -> dict[str, str]:
    settings = {
        "device_id": "0",
        # Grows by what is asked for: by powers of two it would keep up to twice that.
        "arena_extend_strategy": "kSameAsRequested",
        # `EXHAUSTIVE`, the default, times every convolution anew at each batch size that it meets.
        "cudnn_conv_algo_search": "HEURISTIC",
        # float32 means float32, as in the certificate.
        "use_tf32": "0",
    }
    if memory_limit_bytes is not None:
        settings["gpu_mem_limit"] = str(memory_limit_bytes)
    return settings


def _failure(message: str) -> RuntimeFailure:
    lower = message.lower()
    return (
        OutOfMemory(message)
        if any(sign in lower for sign in _NO_MEMORY)
        else RuntimeFailure(message)
    )
