"""Every name of TensorRT and of the CUDA runtime that this project uses.

The fakes in `tests/model/fake_tensorrt.py` offer these names and no others; `make test-gpu` checks
them against the installed packages. Source: the Python classes in the wheels
`tensorrt_cu12_bindings` 10.13.3.9 and `tensorrt_cu13_bindings` 11.4.0.106, of whose extension
modules every name below was read, and `cuda-bindings` 13.5.0.
"""

from __future__ import annotations

TENSORRT: dict[str, tuple[str, ...]] = {
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "BuilderFlag": ("TF32", "VERSION_COMPATIBLE"),
    "DataType": ("FLOAT", "UINT8"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS", "NONE", "SAME_COMPUTE_CAPABILITY"),
    "IBuilderConfig": (
        "add_optimization_profile",
        "builder_optimization_level",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "hardware_compatibility_level",
        "progress_monitor",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "create_execution_context",
        "device_memory_size_v2",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": (
        "execute_async_v3",
        "set_device_memory",
        "set_input_shape",
        "set_tensor_address",
    ),
    "ILogger": ("Severity", "log"),
    "INetworkDefinition": ("get_input", "num_inputs"),
    "IOptimizationProfile": ("set_shape",),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "ITensor": ("name", "shape"),
    "ITimingCache": ("serialize",),
    "Logger": ("WARNING",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("get_error", "num_errors", "parse_from_file"),
    "ParserError": ("desc", "node_name"),
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "TensorIOMode": ("OUTPUT",),
}
"""Members by class. `STRONGLY_TYPED` is deprecated in 11, where nothing else exists, and may go."""

CUDA: tuple[str, ...] = (
    "cudaError_t",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetDeviceProperties",
    "cudaGetLastError",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaMemcpyAsync",
    "cudaMemcpyKind",
    "cudaStreamBeginCapture",
    "cudaStreamCaptureMode",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamNonBlocking",
    "cudaStreamSynchronize",
)
"""Of `cuda.bindings.runtime`."""
