"""What 16-bit products cost a bundle's network on real pairs, against its float32 graph.

`python -m benchmarks.precision bundles/reid-compact pairs.npz`, the pairs as `python -m training
pairs` writes them. Everything runs in ONNX Runtime on the CPU; bfloat16, for which it has no
kernels there, as a float32 graph that rounds in the same places.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnx import ModelProto

from export.graph import tidy
from export.judge import RealPairs, read_pairs, scores
from export.precision import Low, RangeError, check_range, emulate, lower
from model.bundle import BundleError, open_bundle
from model.runtimes.onnx_runtime import OnnxRuntime

BATCH = 8
LOW: tuple[Low, ...] = ("fp16", "bf16")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    bundle: Annotated[Path, typer.Argument(help="Of float32 arithmetic.")],
    pairs: Annotated[Path, typer.Argument(help="NumPy archive, see `export/judge.py`.")],
) -> None:
    """Print errors and scores in both precisions; a value beyond float16 is an error."""
    try:
        opened = open_bundle(bundle)
        if opened.manifest.precision != "fp32":
            raise ValueError(f"{bundle} computes in {opened.manifest.precision}")
        real = read_pairs(pairs, opened.manifest.input_size)
    except (ValueError, BundleError) as error:
        raise typer.BadParameter(str(error)) from error
    graph = tidy(onnx.load(opened.model_path))
    forms = {low: lower(graph, low) for low in LOW}
    typer.echo(f"{opened.manifest.model_id}, {len(real)} pairs of {real.name}")
    expected = _answers(graph, real)
    typer.echo(f"fp32  {_text(scores(real, expected))}")
    for low, form in forms.items():
        found = _answers(emulate(form) if low == "bf16" else form, real)
        typer.echo(f"{low}  {_text(errors(found, expected))}, {_text(scores(real, found))}")
    try:
        largest = check_range(graph, forms["fp16"], _batches(real))
    except RangeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if largest:
        worst = max(largest, key=lambda name: largest[name])
        typer.echo(f"largest value in float16: {largest[worst]:.0f}, {worst}")


def errors(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """Mean absolute error over all pairs and of the worst one, the largest; or the least cosine."""
    if found.ndim == 2:
        return {"least cosine": float((found.astype(np.float64) * expected).sum(axis=1).min())}
    error = np.abs(found.astype(np.float64) - expected)
    return {
        "mean abs error": float(error.mean()),
        "of the worst pair": float(error.mean(axis=(1, 2)).max()),
        "largest": float(error.max()),
    }


def _answers(model: ModelProto, real: RealPairs) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        runtime = OnnxRuntime(path, threads=1)
        answers = [runtime.run(rgb, aux) for rgb, aux in _batches(real)]
        runtime.close()
    return np.concatenate(answers)


def _batches(real: RealPairs) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    for start in range(0, len(real), BATCH):
        yield real.rgb[start : start + BATCH], real.aux[start : start + BATCH]


def _text(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in values.items())


if __name__ == "__main__":
    app()
