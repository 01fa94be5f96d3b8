"""Command line of export: `python -m export --help`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from export.parity import Run
    from model.bundle import Bundle


class _CheckpointUnlessNamed(TyperGroup):
    """`python -m export CHECKPOINT ...` is `python -m export checkpoint CHECKPOINT ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["checkpoint", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_CheckpointUnlessNamed,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Checkpoint to bundle: python -m export CHECKPOINT --out FOLDER.",
)


class WeightsChoice(StrEnum):
    """How weights are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class PrecisionChoice(StrEnum):
    """Of products and convolutions."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class HardwareChoice(StrEnum):
    """Which cards may load an engine."""

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"
    AMPERE_PLUS = "ampere_plus"


@app.command("checkpoint")
def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of this project.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an old bundle is replaced.")],
    name: Annotated[
        str | None, typer.Option(help="Of the bundle.", show_default="the preset's")
    ] = None,
    version: Annotated[str, typer.Option(help="Of the bundle.")] = "0.1.0",
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 20.")] = 20,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width in pixels.", show_default="the checkpoint's"),
    ] = None,
    weights: Annotated[
        WeightsChoice, typer.Option(help="How weights are stored; float16 halves the file.")
    ] = WeightsChoice.FLOAT32,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="Of products and convolutions; the rest is fp32.")
    ] = PrecisionChoice.FP32,
    judge: Annotated[
        Path | None,
        typer.Option(help="NumPy archive of real pairs to judge on, see `export/judge.py`."),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="JSON of scores by test set, as `python -m training evaluate` writes."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Markdown in place of the card's general limits.")
    ] = None,
) -> None:
    """Turn a checkpoint into a verified bundle; a failed comparison writes nothing."""
    # Imported here, so that --help answers at once.
    from export.judge import read_pairs
    from export.pack import Options, check_target, export_bundle
    from export.parity import ParityError
    from export.precision import RangeError
    from export.to_onnx import ConversionError
    from model.bundle import BundleError
    from model.checkpoint import load_checkpoint
    from model.runtimes.base import RuntimeFailure

    report = _reporter()
    try:
        options = Options(
            name=name,
            version=version,
            opset=opset,
            size=size,
            weights=weights.value,
            precision=precision.value,
            metrics=_read_metrics(metrics) if metrics else None,
            notes=card.read_text(encoding="utf-8") if card else None,
        )
        check_target(out)
        report(f"reading {checkpoint}")
        loaded = load_checkpoint(checkpoint)
        if judge:
            real = read_pairs(judge, size or loaded.config.input_size)
            options = replace(options, real=real)
        bundle = export_bundle(loaded, out, options, report)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (ParityError, RangeError, ConversionError, BundleError, RuntimeFailure) as error:
        typer.echo(f"error: {error}\nNothing was written.", err=True)
        raise typer.Exit(1) from error
    report("done")
    for step in bundle.parity["steps"]:
        bar = "" if step["tolerance"] is None else f"  (at most {step['tolerance']:.0e})"
        cosine = f", cosine {step['min_cosine']:.7f}" if "min_cosine" in step else ""
        typer.echo(f"{step['step']:20} max abs error {step['max_abs_error']:.2e}{bar}{cosine}")
    for reason in bundle.parity["tensorrt"]["refused"]:
        typer.echo(f"TensorRT would refuse: {reason}", err=True)
    size_bytes = sum(file.stat().st_size for file in out.iterdir())
    typer.echo(f"{bundle.manifest.model_id} in {out}, {size_bytes / 1e6:.1f} MB")


@app.command()
def engine(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    typical_batch: Annotated[int, typer.Option(help="Batch that it is tuned for.")] = 8,
    max_batch: Annotated[int, typer.Option(help="Most rows that it takes.")] = 16,
    builder_level: Annotated[int, typer.Option(help="0 to 5: how long to search.")] = 3,
    tf32: Annotated[bool, typer.Option(help="Let float32 products round their inputs.")] = False,
    version_compatible: Annotated[
        bool, typer.Option(help="Let later minor versions of TensorRT load it.")
    ] = False,
    hardware_compatibility: Annotated[
        HardwareChoice, typer.Option(help="Which other cards may load it.")
    ] = HardwareChoice.NONE,
    engines: Annotated[
        Path | None, typer.Option(help="Where engines are kept.", show_default="the user's cache")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="JSON to write: the engine against the graph at batch 1, 3 and most."),
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Real pairs to judge on besides, for the certificate.")
    ] = None,
) -> None:
    """Build the TensorRT engine of a bundle for the card at hand, and try it on the canary."""
    import numpy as np

    from export.judge import read_pairs
    from export.parity import ParityError, check_engine
    from model.bundle import BundleError, load_canary, open_bundle
    from model.engines import EngineOptions
    from model.runtimes.base import RuntimeFailure
    from model.runtimes.tensorrt import TensorRTRuntime

    report = _reporter()
    try:
        options = EngineOptions(
            typical_batch=typical_batch,
            max_batch=max_batch,
            builder_level=builder_level,
            tf32=tf32,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility.value,
        )
        opened = open_bundle(bundle)
        rgb, aux, expected = load_canary(opened)
        real = read_pairs(judge, opened.manifest.input_size) if judge else None
    except (ValueError, BundleError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    try:
        runtime = TensorRTRuntime(opened.model_path, options=options, folder=engines, report=report)
        error_found = float(np.abs(runtime.run(rgb, aux) - expected).max())
        if certificate:
            report("comparing with the graph on the CPU")
            with _graph_on_cpu(opened) as graph:
                found = check_engine(graph, runtime.run, opened, max_batch, real)
            certificate.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        runtime.close()
    except (RuntimeFailure, ParityError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    tolerance = opened.canary_tolerance
    typer.echo(
        f"{opened.manifest.model_id}: canary max abs error {error_found:.2e}"
        f"  (at most {tolerance:.0e})"
    )
    if not error_found <= tolerance:
        typer.echo("error: the engine does not answer as the exporter's graph does", err=True)
        raise typer.Exit(1)


@contextmanager
def _graph_on_cpu(bundle: Bundle) -> Iterator[Run]:
    """What runs a bundle's graph; a bfloat16 one is emulated, which takes the extra train."""
    from model.runtimes.onnx_runtime import OnnxRuntime

    with tempfile.TemporaryDirectory() as folder:
        path = bundle.model_path
        if bundle.manifest.precision == "bf16":
            import onnx

            from export.precision import emulate

            path = Path(folder) / "emulated.onnx"
            onnx.save(emulate(onnx.load(bundle.model_path)), path)
        runtime = OnnxRuntime(path)
        yield runtime.run
        runtime.close()


def _reporter() -> Callable[[str], None]:
    started = time.monotonic()

    def report(message: str) -> None:
        typer.echo(f"{time.monotonic() - started:6.1f} s  {message}", err=True)

    return report


def _read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(scores, dict) or not all(isinstance(each, dict) for each in scores.values()):
        raise ValueError(f"{path}: expected an object of scores by test set")
    return scores


if __name__ == "__main__":
    app()
