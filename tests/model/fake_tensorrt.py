# ruff: noqa: ARG002, N802, N815 - names and arguments are those of the real packages
"""TensorRT and the CUDA runtime as far as this project uses them, computed on the CPU.

Engines answer what `EchoRuntime` does, reading and writing memory by address as the real one. Only
the names in `tests.gpu.api` exist, so code that needs another one fails here.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model.runtimes.echo import EchoRuntime

HEIGHT, WIDTH = 6, 5


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity: ClassVar[type[Severity]] = Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Logger:
    WARNING = Severity.WARNING

    def __init__(self, severity: Severity) -> None:
        pass


class IProgressMonitor:
    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase: str) -> None:
        raise NotImplementedError


class BuilderFlag(Enum):
    TF32 = 0
    VERSION_COMPATIBLE = 1


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class HardwareCompatibilityLevel(Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class MemoryPoolType(Enum):
    WORKSPACE = 0


class DataType(Enum):
    FLOAT = 0
    UINT8 = 1


class TensorIOMode(Enum):
    INPUT = 0
    OUTPUT = 1


class ExecutionContextAllocationStrategy(Enum):
    USER_MANAGED = 0


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"t"


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(
        self, name: str, least: tuple[int, ...], typical: tuple[int, ...], most: tuple[int, ...]
    ) -> None:
        self._shapes[name] = (least, typical, most)


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class ParserError:
    def desc(self) -> str:
        return "what is this"

    def node_name(self) -> str:
        return "node_7"


class OnnxParser:
    """Takes any file but one that holds `bad`."""

    num_errors = 1

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        if b"bad" in Path(path).read_bytes():
            return False
        self._network._inputs = [
            ITensor("rgb", (-1, HEIGHT, WIDTH, 3)),
            ITensor("aux", (-1, HEIGHT, WIDTH, 1)),
        ]
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: Any = None
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        pass

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if b"foreign" in cache._content and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Tactics", "Building", 100)
        assert monitor.step_complete("Tactics", 0)
        monitor.phase_finish("Tactics")
        monitor.phase_finish("Building")
        self._logger.log(Severity.INFO, "not worth telling")
        self._logger.log(Severity.WARNING, "worth telling")
        (profile,) = config._profiles
        plan = {
            "network_flags": network._flags,
            "flags": sorted(flag.name for flag in config._flags),
            "level": config.builder_optimization_level,
            "hardware": config.hardware_compatibility_level.name,
            "profile": profile._shapes,
        }
        return json.dumps(plan).encode()


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self._scratch = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._profile[name]
        self._shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self._scratch
        return CUDA.on_stream(self._compute, kernel=True)

    def _compute(self) -> None:
        batch = self._shapes["rgb"][0]
        assert self._shapes["aux"][0] == batch
        rgb = _view(self._addresses["rgb"], (batch, HEIGHT, WIDTH, 3), np.uint8)
        aux = _view(self._addresses["aux"], (batch, HEIGHT, WIDTH, 1), np.float32)
        out = _view(self._addresses["saliency"], (batch, HEIGHT, WIDTH), np.float32)
        out[:] = EchoRuntime().run(rgb, aux)


class ICudaEngine:
    device_memory_size_v2 = 1000
    num_io_tensors = 3

    def __init__(self, plan: dict[str, Any]) -> None:
        self._profile: dict[str, list[list[int]]] = plan["profile"]

    def get_tensor_name(self, index: int) -> str:
        return ("rgb", "aux", "saliency")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == "saliency" else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if name == "rgb" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {
            "rgb": (-1, HEIGHT, WIDTH, 3),
            "aux": (-1, HEIGHT, WIDTH, 1),
            "saliency": (-1, HEIGHT, WIDTH),
        }[name]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> IExecutionContext:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, content: bytes) -> ICudaEngine | None:
        try:
            return ICudaEngine(json.loads(content))
        except ValueError:
            return None


_CLASSES: list[type] = [
    *(Builder, BuilderFlag, DataType, ExecutionContextAllocationStrategy),
    *(HardwareCompatibilityLevel, IBuilderConfig, ICudaEngine, IExecutionContext, ILogger),
    *(INetworkDefinition, IOptimizationProfile, IProgressMonitor, ITensor, ITimingCache, Logger),
    *(MemoryPoolType, NetworkDefinitionCreationFlag, OnnxParser, ParserError, Runtime),
    TensorIOMode,
]
TENSORRT = SimpleNamespace(__version__="11.4.0.106", **{each.__name__: each for each in _CLASSES})
"""The `tensorrt` package."""


class _Status(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700


def _view(address: int, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = CUDA.block(address, size)
    return np.frombuffer(block, dtype, count=int(np.prod(shape))).reshape(shape)


class FakeCuda:
    """Memory is real and checked for its bounds; a stream runs work at once or captures it."""

    cudaError_t = _Status
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.free_bytes = 10**9
        self.capturable = True
        self.captured: list[Callable[[], None]] | None = None
        self.launches = 0
        self.live = 0
        """Streams and graphs not yet destroyed."""

    def block(self, address: int, size: int) -> Any:
        block = self.blocks[address]
        assert ctypes.sizeof(block) >= size
        return block

    def on_stream(self, work: Callable[[], None], *, kernel: bool = False) -> bool:
        if self.captured is None:
            work()
        elif kernel and not self.capturable:
            return False
        else:
            self.captured.append(work)
        return True

    def _allocate(self, size: int) -> tuple[Any, ...]:
        if size > self.free_bytes:
            return _Status.cudaErrorMemoryAllocation, None
        self.free_bytes -= size
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return _Status.cudaSuccess, ctypes.addressof(block)

    def _release(self, address: int) -> tuple[Any, ...]:
        self.free_bytes += ctypes.sizeof(self.blocks.pop(address))
        return (_Status.cudaSuccess,)

    cudaMalloc = cudaMallocHost = _allocate
    cudaFree = cudaFreeHost = _release

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[Any, ...]:
        self.block(target, size)
        self.block(source, size)

        def copy() -> None:
            ctypes.memmove(target, source, size)

        self.on_stream(copy)
        return (_Status.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return _Status.cudaSuccess, SimpleNamespace(name=b"Fake 9000", major=9, minor=0)

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (_Status.cudaErrorIllegalAddress,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.live += 1
        return _Status.cudaSuccess, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert self.captured is None
        return (_Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.captured = []
        return (_Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        graph, self.captured = self.captured, None
        return _Status.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        self.live += 1
        return _Status.cudaSuccess, list(graph)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        for work in graph:
            work()
        return (_Status.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        graph.clear()
        return (_Status.cudaSuccess,)

    def _destroy(self, _: Any) -> tuple[Any, ...]:
        self.live -= 1
        return (_Status.cudaSuccess,)

    cudaGraphExecDestroy = cudaStreamDestroy = _destroy


CUDA = FakeCuda()
"""`cuda.bindings.runtime`."""
