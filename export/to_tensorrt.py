"""An ONNX graph -> a TensorRT engine for the card at hand; TensorRT 10.13 and later, and 11.

`python -m export.to_tensorrt REQUEST` is the child process of `model.engines`: what it prints is
its progress. It needs the tensorrt package and no other but this one's `model`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from model.engines import BuildRequest, EngineOptions, Report

OLDEST = (10, 13)
"""Of TensorRT: what the graphs are proven against."""
INPUTS = ("rgb", "aux")


class BuildError(Exception):
    """TensorRT refused the graph or found no engine; the message is its own."""


def main(request_path: Path) -> None:
    """Carry out a `BuildRequest`."""
    request = BuildRequest.read(request_path)
    engine = build(
        Path(request.model),
        request.options,
        Path(request.timing_cache),
        lambda message: print(message, flush=True),  # noqa: T201 - read by the parent
    )
    Path(request.engine).write_bytes(engine)


def build(model: Path, options: EngineOptions, timing_cache: Path, report: Report) -> bytes:
    """Build and serialise; the network is strongly typed: the graph's types are obeyed.

    Args:
        model: the ONNX graph, with inputs `rgb` and `aux` whose first dimension is the batch.
        options: batch sizes and flags.
        timing_cache: read if it is there and fits, then written.
        report: told of each phase.

    Raises:
        BuildError: TensorRT is too old, refuses the graph or finds no engine.
    """
    import tensorrt as trt

    check_version(trt.__version__)
    logger = _logger(trt, report)
    builder = trt.Builder(logger)
    network = builder.create_network(creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    report(f"parsing {model.name} with TensorRT {trt.__version__}")
    if not parser.parse_from_file(str(model)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BuildError("; ".join(f"{error.node_name()}: {error.desc()}" for error in errors))
    config = builder.create_builder_config()
    config.builder_optimization_level = options.builder_level
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.hardware_compatibility_level = getattr(
        trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper()
    )
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if not options.tf32:  # on by default
        config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = _progress(trt, report)
    profile = builder.create_optimization_profile()
    shapes = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes[tensor.name] = tuple(tensor.shape)[1:]
    if set(shapes) != set(INPUTS) or any(side < 1 for shape in shapes.values() for side in shape):
        raise BuildError(f"expected rgb and aux with only the batch open, got {shapes}")
    for name, shape in shapes.items():
        profile.set_shape(name, *((batch, *shape) for batch in options.profile))
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"the batch sizes {options.profile} do not fit {shapes}")
    known = timing_cache.read_bytes() if timing_cache.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        report(f"{timing_cache.name} is of no use here; starting without")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildError("TensorRT built no engine; its messages are above")
    part = timing_cache.with_suffix(".part")
    part.write_bytes(bytes(config.get_timing_cache().serialize()))
    part.replace(timing_cache)
    return bytes(engine)


def creation_flags(trt: Any) -> int:
    """Of the network; TensorRT 10 is asked for strong typing, 11 knows nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def check_version(version: str) -> None:
    """Refuse what is older than `OLDEST`."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST:
        raise BuildError(
            f"TensorRT {version} is too old; {OLDEST[0]}.{OLDEST[1]} is the oldest that will do"
        )


def _logger(trt: Any, report: Report) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc] # known at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (
                trt.ILogger.Severity.INTERNAL_ERROR,
                trt.ILogger.Severity.ERROR,
                trt.ILogger.Severity.WARNING,
            ):
                report(f"{severity.name.lower()}: {message}")

    return Logger()


def _progress(trt: Any, report: Report, every_s: float = 5.0) -> Any:
    """Reports phases as they begin, and steps of long ones every few seconds."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc] # known at run time alone
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.told = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            if parent is None:
                report(f"{phase}: {steps} steps")

        def step_complete(self, phase: str, step: int) -> bool:
            if time.monotonic() - self.told >= every_s:
                self.told = time.monotonic()
                report(f"{phase}: step {step + 1} of {self.steps.get(phase, 0)}")
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Progress()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (BuildError, ImportError) as error:
        sys.exit(f"error: {error}")
