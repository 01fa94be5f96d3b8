"""Latency and throughput of a network in every runtime and precision that is at hand.

`python -m benchmarks.runtime bundles/saliency-compact` takes the bundle's float32 graph, and torch
the same architecture; `python -m benchmarks.runtime saliency-resnet50` exports the preset with
random weights: time does not depend on them. Variants take turns. On a CPU each takes one
thread, and the clock is the CPU time of the process, so that numbers hold on a busy machine. The
peak is what a large matrix product of torch reaches in the same precision, on a CPU in float32,
here and now.
"""

from __future__ import annotations

import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from onnx import ModelProto, helper
from rich.console import Console
from torch import nn

from benchmarks.machine import processor
from export.graph import constants, element_types, shapes, tidy
from export.inputs import scenes
from export.pack import Options, convert
from export.precision import Low, lower
from model.bundle import BundleError, open_bundle
from model.checkpoint import Checkpoint
from model.config import CONFIGS, Config, ReIDConfig, Task
from model.engines import EngineOptions
from model.reid import ReIDNet
from model.runtimes.base import Runtime, RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.pytorch import Precision, PyTorchRuntime
from model.runtimes.tensorrt import TensorRTRuntime
from model.saliency import SaliencyNet

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13", "cuda-bindings")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    subject: Annotated[str, typer.Argument(help="Folder of a float32 bundle, or a preset.")],
    batches: Annotated[list[int] | None, typer.Option(help="Rows at once.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each variant.")] = 10,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON of every number.")] = None,
) -> None:
    """Print a table of every variant that runs here, and say which do not."""
    try:
        network = _from_bundle(Path(subject)) if Path(subject).is_dir() else _from_preset(subject)
    except (ValueError, BundleError) as error:
        raise typer.BadParameter(str(error)) from error
    if device == "cpu":
        torch.set_num_threads(1)
    sizes = sorted(batches or [1, 8])
    console = Console(stderr=True)
    report: dict[str, Any] = {
        "network": network.name,
        "machine": _machine(device),
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "gflop_per_row": flops(network.graph) / 1e9,
        "mb_per_row": copied_bytes(network.graph) / 1e6,
        "copy_gb_per_s": _copy_rate(device),
        "peak_tflops": {kind: _peak(kind, device) for kind in ("fp32", "fp16", "bf16")},
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, precision, make in _variants(network, Path(folder), device, sizes[-1]):
            try:
                runtime = make()
                times = {size: _time(runtime, network, size, repeats, device) for size in sizes}
                runtime.close()
            except RuntimeFailure as error:
                console.print(f"{name} {precision}: {str(error).splitlines()[0][:160]}")
                continue
            report["rows"] += [
                {"runtime": name, "precision": precision, "batch": size, "seconds": seconds}
                for size, seconds in times.items()
            ]
            console.print(f"{name} {precision} done")
    print(table(report))  # noqa: T201 - the answer
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> str:
    """Markdown: milliseconds of a batch, rows a second, shares of peak and copy bandwidth."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{report['network']}, {report['gflop_per_row']:.2f} GFLOP a row; {report['machine']}; "
        f"{versions}; {report['date']}.",
        "",
        "| runtime | precision | batch | ms, median | ms, least | rows/s | of peak | of copies |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    copies = report["copy_gb_per_s"]
    for row in report["rows"]:
        median, least = statistics.median(row["seconds"]), min(row["seconds"])
        rate = row["batch"] / median
        share = rate * report["gflop_per_row"] / 1e3 / report["peak_tflops"][row["precision"]]
        lines.append(
            f"| {row['runtime']} | {row['precision']} | {row['batch']} | {1e3 * median:.1f} "
            f"| {1e3 * least:.1f} | {rate:.1f} | {share:.0%} "
            + (f"| {rate * report['mb_per_row'] / 1e3 / copies:.0%} |" if copies else "| |")
        )
    peaks = ", ".join(f"{kind} {peak:.3f}" for kind, peak in report["peak_tflops"].items())
    lines += ["", f"Peak, TFLOP/s: {peaks}" + (f"; copies: {copies} GB/s." if copies else ".")]
    return "\n".join(lines)


def flops(model: ModelProto) -> int:
    """Two for each multiplication of a convolution or matrix product, of one row."""
    known, constant = shapes(model), constants(model)
    total = 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        outputs = int(np.prod([side for side in known[node.output[0]] if side]))
        if node.op_type == "Conv":
            inner = int(np.prod(constant[node.input[1]].dims[1:]))
        else:
            transposed = node.op_type == "Gemm" and any(
                each.name == "transA" and helper.get_attribute_value(each)
                for each in node.attribute
            )
            inner = known[node.input[0]][-2 if transposed else -1] or 1
        total += 2 * outputs * inner
    return total


def copied_bytes(model: ModelProto) -> int:
    """Of one row's inputs and output."""
    known, types = shapes(model), element_types(model)
    return sum(
        int(np.prod([side for side in known[value.name] if side]))
        * helper.tensor_dtype_to_np_dtype(types[value.name]).itemsize
        for value in (*model.graph.input, *model.graph.output)
    )


@dataclass(frozen=True)
class _Subject:
    name: str
    graph: ModelProto
    """In float32."""
    network: nn.Module
    size: tuple[int, int]


def _from_bundle(folder: Path) -> _Subject:
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if manifest.precision != "fp32":
        raise ValueError(f"{folder} computes in {manifest.precision}")
    config = CONFIGS[manifest.task].from_dict(manifest.config)
    graph = tidy(onnx.load(bundle.model_path))
    return _Subject(manifest.model_id, graph, _network(config), manifest.input_size)


def _from_preset(name: str) -> _Subject:
    task: Task = "reid" if name.startswith("reid") else "saliency"
    config: Config = CONFIGS[task].preset(name)
    network = _network(config)
    graph = convert(Checkpoint(config, network.state_dict()), Options()).model
    return _Subject(f"{name}, random weights", graph, network, config.input_size)


def _network(config: Config) -> nn.Module:
    network = ReIDNet(config) if isinstance(config, ReIDConfig) else SaliencyNet(config)
    return network.eval()


def _variants(
    subject: _Subject, folder: Path, device: str, most: int
) -> list[tuple[str, Precision, Callable[[], Runtime]]]:
    lows: tuple[Low, ...] = ("fp16", "bf16")
    paths: dict[Precision, Path] = {"fp32": folder / "fp32.onnx"}
    onnx.save(subject.graph, paths["fp32"])
    for low in lows:
        paths[low] = folder / f"{low}.onnx"
        onnx.save(lower(subject.graph, low), paths[low])
    cuda = device.startswith("cuda")
    options = EngineOptions(typical_batch=most, max_batch=most, tf32=False)

    def torch_runtime(precision: Precision, compiled: bool) -> Callable[[], Runtime]:
        return lambda: PyTorchRuntime(subject.network, device, precision, compiled)

    def onnx_runtime(precision: Precision) -> Callable[[], Runtime]:
        return lambda: OnnxRuntime(
            paths[precision], device="cuda" if cuda else "cpu", threads=None if cuda else 1
        )

    def tensorrt_runtime(precision: Precision) -> Callable[[], Runtime]:
        return lambda: TensorRTRuntime(paths[precision], options=options, report=_say)

    found: list[tuple[str, Precision, Callable[[], Runtime]]] = []
    for precision in paths:
        if cuda or precision != "fp16":  # which torch emulates on CPUs, for minutes
            found.append(("torch", precision, torch_runtime(precision, compiled=False)))
        if cuda:
            found.append(("torch compiled", precision, torch_runtime(precision, compiled=True)))
        found.append(("onnxruntime", precision, onnx_runtime(precision)))
        if cuda:
            found.append(("tensorrt", precision, tensorrt_runtime(precision)))
    return found


def _say(message: str) -> None:
    Console(stderr=True).print(message)


def _time(
    runtime: Runtime, subject: _Subject, batch: int, repeats: int, device: str
) -> Sequence[float]:
    rgb, aux = scenes(batch, subject.size)
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(2):
        runtime.run(rgb, aux)
    seconds = []
    for _ in range(repeats):
        started = clock()
        runtime.run(rgb, aux)
        seconds.append(clock() - started)
    return seconds


def _peak(precision: str, device: str) -> float:
    """TFLOP/s of a large square product."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    side = 1024 if device == "cpu" else 8192
    if device == "cpu":
        dtype = torch.float32  # what ONNX Runtime computes in there, whatever the graph says
    a = torch.randn(side, side).to(device, dtype)
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(5):
        started = clock()
        (a @ a).sum().item()  # which waits for it
        best = min(best, clock() - started)
    return 2 * side**3 / best / 1e12


def _copy_rate(device: str) -> float | None:
    """GB/s from page-locked memory to the card; none on a CPU."""
    if device == "cpu":
        return None
    block = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        block.to(device)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return round(len(block) / best / 1e9, 1)


def _machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, one thread"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    app()
