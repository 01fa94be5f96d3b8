"""TensorRT on an NVIDIA GPU: an engine, one stream, one CUDA graph for each batch bucket; no torch.

A run copies its rows into page-locked memory and launches one graph: copy in, compute, copy out.
Every bucket has a context of its own, because a captured graph is good for the shapes that its
context had; all share one scratch memory, since the stream runs them one after another.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engines import (
    EngineError,
    EngineOptions,
    Machine,
    Report,
    default_folder,
    ensure_engine,
)
from model.runtimes.base import OutOfMemory, RuntimeFailure, bucket_of

_INPUTS = ("rgb", "aux")


def this_machine() -> Machine:
    """What engines must be built for here: the first card, and the TensorRT that is installed.

    Raises:
        RuntimeFailure: there is no card, or the packages are missing.
    """
    trt, cuda = _packages()
    properties = _call(cuda, "cudaGetDeviceProperties", 0)
    name = properties.name
    return Machine(
        tensorrt=trt.__version__,
        compute_capability=f"{properties.major}.{properties.minor}",
        card=name.decode() if isinstance(name, bytes) else str(name),
    )


class TensorRTRuntime:
    """Runs one ONNX graph with inputs `rgb` and `aux` and a single output."""

    name = "tensorrt"

    def __init__(
        self,
        model_path: Path,
        *,
        options: EngineOptions | None = None,
        folder: Path | None = None,
        report: Report = lambda _: None,
    ) -> None:
        """Load the graph's engine, building it first if need be, and warm up every bucket.

        Args:
            model_path: the `.onnx` file.
            options: how an engine is built; as `EngineOptions` has it by default.
            folder: where engines are kept; `default_folder()` by default.
            report: told of waiting, building and its progress.

        Raises:
            RuntimeFailure: there is no card, no engine can be built, or it does not run.
        """
        options = options or EngineOptions()
        self.device = "cuda:0"
        with ExitStack() as resources:  # freed again if anything below fails
            self._resources = resources
            self._load(model_path, options, folder or default_folder(), report)
            self._resources = resources.pop_all()

    def _load(self, model_path: Path, options: EngineOptions, folder: Path, report: Report) -> None:
        self._trt, self._cuda = _packages()
        try:
            plan = ensure_engine(model_path, this_machine(), options, folder, report)
        except EngineError as error:
            raise RuntimeFailure(str(error)) from error
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        # Such an engine brings code that runs on the host; it is ours, its digest was checked.
        self._runtime.engine_host_code_allowed = options.version_compatible
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeFailure(f"{model_path}: TensorRT cannot load the engine built for it")
        self._max_batch = options.max_batch
        self._buffers = {name: self._buffer(name) for name in self._tensor_names(model_path)}
        self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._resources.callback(self._call, "cudaStreamDestroy", self._stream)
        self._scratch_bytes = max(int(self._engine.device_memory_size_v2), 256)
        self._scratch = self._allocate("cudaMalloc", "cudaFree", self._scratch_bytes)
        self._buckets = [self._bucket(batch) for batch in buckets(options.max_batch)]

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`; more rows than the engine takes run one part after another."""
        inputs: dict[str, NDArray[Any]] = {"rgb": rgb, "aux": aux}
        for name, array in inputs.items():
            host = self._buffers[name].host
            if array.dtype != host.dtype or array.shape[1:] != host.shape[1:]:
                raise RuntimeFailure(
                    f"{name} is {array.dtype} {array.shape}, "
                    f"expected {host.dtype} (B, {', '.join(map(str, host.shape[1:]))})"
                )
        if len(rgb) != len(aux):
            raise RuntimeFailure(f"{len(rgb)} rows of rgb, {len(aux)} of aux")
        (output,) = (self._buffers[name] for name in self._buffers if name not in inputs)
        answers = np.empty((len(rgb), *output.host.shape[1:]), np.float32)
        for start in range(0, len(rgb), self._max_batch):
            rows = min(self._max_batch, len(rgb) - start)
            for name, array in inputs.items():
                self._buffers[name].host[:rows] = array[start : start + rows]
            self._launch(next(bucket for bucket in self._buckets if bucket.batch >= rows))
            answers[start : start + rows] = output.host[:rows]
        return answers

    def close(self) -> None:
        """Free the engine, its buffers and the stream."""
        self._buckets.clear()
        self._buffers.clear()
        self._resources.close()
        self._engine = self._runtime = None

    def _allocate(self, take: str, give_back: str, size_bytes: int) -> int:
        """Address of a block of memory that `close` frees."""
        address = int(self._call(take, size_bytes))
        self._resources.callback(self._call, give_back, address)
        return address

    def _tensor_names(self, model_path: Path) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        mode = self._trt.TensorIOMode.OUTPUT
        outputs = [name for name in names if engine.get_tensor_mode(name) == mode]
        if set(names) - set(outputs) != set(_INPUTS) or len(outputs) != 1:
            raise RuntimeFailure(
                f"{model_path}: expected inputs rgb and aux and one output, got {names}"
            )
        return names

    def _buffer(self, name: str) -> _Buffer:
        dtype = np.dtype(np.uint8 if name == "rgb" else np.float32)
        row = tuple(int(side) for side in self._engine.get_tensor_shape(name))[1:]
        wanted = self._trt.DataType.UINT8 if name == "rgb" else self._trt.DataType.FLOAT
        if self._engine.get_tensor_dtype(name) != wanted or any(side < 1 for side in row):
            raise RuntimeFailure(f"{name}: expected {dtype} and fixed height and width, got {row}")
        shape = (self._max_batch, *row)
        row_bytes = int(np.prod(row)) * dtype.itemsize
        size_bytes = row_bytes * self._max_batch
        address = self._allocate("cudaMallocHost", "cudaFreeHost", size_bytes)
        block = (ctypes.c_uint8 * size_bytes).from_address(address)
        host = np.ctypeslib.as_array(block).view(dtype).reshape(shape)
        host[:] = 0
        device = self._allocate("cudaMalloc", "cudaFree", size_bytes)
        return _Buffer(host, address, device, row_bytes)

    def _bucket(self, batch: int) -> _Bucket:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise OutOfMemory(f"TensorRT made no context for {batch} rows")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        for name, buffer in self._buffers.items():
            if name in _INPUTS and not context.set_input_shape(
                name, (batch, *buffer.host.shape[1:])
            ):
                raise RuntimeFailure(f"the engine does not take {batch} rows")
            context.set_tensor_address(name, buffer.device)
        bucket = _Bucket(batch, context)
        self._enqueue(bucket)  # once before a capture: TensorRT finishes setting up here
        self._call("cudaStreamSynchronize", self._stream)
        bucket.graph = self._capture(bucket)
        return bucket

    def _capture(self, bucket: _Bucket) -> Any:
        """The work of one run as a graph; none if the engine holds work that cannot be captured."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            self._enqueue(bucket)
        except RuntimeFailure:
            self._cuda.cudaStreamEndCapture(self._stream)
            self._cuda.cudaGetLastError()  # which the failed capture left behind
            return None
        graph = self._call("cudaStreamEndCapture", self._stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._resources.callback(self._call, "cudaGraphExecDestroy", executable)
        self._call("cudaGraphDestroy", graph)
        return executable

    def _launch(self, bucket: _Bucket) -> None:
        if bucket.graph is None:
            self._enqueue(bucket)
        else:
            self._call("cudaGraphLaunch", bucket.graph, self._stream)
        self._call("cudaStreamSynchronize", self._stream)

    def _enqueue(self, bucket: _Bucket) -> None:
        """Copy in, compute, copy out."""
        kinds = self._cuda.cudaMemcpyKind
        for name in _INPUTS:
            buffer = self._buffers[name]
            self._copy(
                buffer.device, buffer.host_address, buffer, bucket, kinds.cudaMemcpyHostToDevice
            )
        if not bucket.context.execute_async_v3(int(self._stream)):
            raise RuntimeFailure(f"TensorRT refused to run {bucket.batch} rows")
        for name, buffer in self._buffers.items():
            if name not in _INPUTS:
                self._copy(
                    buffer.host_address, buffer.device, buffer, bucket, kinds.cudaMemcpyDeviceToHost
                )

    def _copy(self, target: int, source: int, buffer: _Buffer, bucket: _Bucket, kind: Any) -> None:
        size_bytes = buffer.row_bytes * bucket.batch
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._cuda, function, *arguments)


@dataclass
class _Buffer:
    """One input or output, for the largest batch."""

    host: NDArray[Any]
    """Page-locked."""
    host_address: int
    device: int
    """Address on the card."""
    row_bytes: int


@dataclass
class _Bucket:
    """What runs `batch` rows."""

    batch: int
    context: Any
    graph: Any = None
    """Captured and instantiated."""


def buckets(max_batch: int) -> list[int]:
    """Powers of two below `max_batch`, and itself."""
    return sorted({min(bucket_of(rows), max_batch) for rows in range(1, max_batch + 1)})


def _packages() -> tuple[Any, Any]:
    """`tensorrt` and the CUDA runtime."""
    try:
        import tensorrt
        from cuda.bindings import runtime
    except ImportError as error:
        raise RuntimeFailure(f"the tensorrt runtime needs its extra: {error}") from error
    return tensorrt, runtime


def _call(cuda: Any, function: str, *arguments: Any) -> Any:
    """A function of the CUDA runtime; answers what it answers beside its status."""
    status, *results = getattr(cuda, function)(*arguments)
    if status == cuda.cudaError_t.cudaSuccess:
        return results[0] if results else None
    message = f"{function}: {status.name if hasattr(status, 'name') else status}"
    if status == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise OutOfMemory(message)
    raise RuntimeFailure(message)
