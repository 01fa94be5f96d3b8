"""Command line of export: `python -m export --help`."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class WeightsChoice(StrEnum):
    """How weights are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of this project.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an old bundle is replaced.")],
    version: Annotated[str, typer.Option(help="Of the bundle.")] = "0.1.0",
    opset: Annotated[int, typer.Option(help="ONNX operator set, 18 to 20.")] = 20,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width in pixels.", show_default="the checkpoint's"),
    ] = None,
    weights: Annotated[
        WeightsChoice, typer.Option(help="How weights are stored; float16 halves the file.")
    ] = WeightsChoice.FLOAT32,
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
    from export.pack import Options, check_target, export_bundle
    from export.parity import ParityError
    from export.to_onnx import ConversionError
    from model.bundle import BundleError
    from model.checkpoint import load_checkpoint
    from model.runtimes.base import RuntimeFailure

    started = time.monotonic()

    def report(message: str) -> None:
        typer.echo(f"{time.monotonic() - started:6.1f} s  {message}", err=True)

    try:
        options = Options(
            version=version,
            opset=opset,
            size=size,
            weights=weights.value,
            metrics=_read_metrics(metrics) if metrics else None,
            notes=card.read_text(encoding="utf-8") if card else None,
        )
        check_target(out)
        report(f"reading {checkpoint}")
        bundle = export_bundle(load_checkpoint(checkpoint), out, options, report)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (ParityError, ConversionError, BundleError, RuntimeFailure) as error:
        typer.echo(f"error: {error}\nNothing was written.", err=True)
        raise typer.Exit(1) from error
    report("done")
    for step in bundle.parity["steps"]:
        bar = "" if step["tolerance"] is None else f"  (at most {step['tolerance']:.0e})"
        cosine = f", cosine {step['min_cosine']:.7f}" if "min_cosine" in step else ""
        typer.echo(f"{step['step']:20} max abs error {step['max_abs_error']:.2e}{bar}{cosine}")
    size_bytes = sum(file.stat().st_size for file in out.iterdir())
    typer.echo(f"{bundle.manifest.model_id} in {out}, {size_bytes / 1e6:.1f} MB")


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
