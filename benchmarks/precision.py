"""What 16-bit products cost a bundle's network on real pairs, against its float32 graph.

`python -m benchmarks.precision bundles/reid-compact pairs.npz`, and further bundles with further
pairs, as `python -m training pairs` writes them; `--out docs/precision.md` writes the table there.
Everything runs in ONNX Runtime on the CPU; bfloat16, for which it has no kernels there, as a
float32 graph that rounds in the same places.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.machine import processor
from export.graph import tidy
from export.judge import RealPairs, read_pairs, scores
from export.parity import LOW_COSINE, LOW_MEAN_ERROR
from export.precision import Low, RangeError, check_range, emulate, lower
from model.bundle import BundleError, open_bundle
from model.runtimes.onnx_runtime import OnnxRuntime

BATCH = 8
BARS = {
    "mean abs error": ("below", LOW_MEAN_ERROR),
    "least cosine": ("above", LOW_COSINE),
}
"""Errors of 16-bit forms over all pairs; the certificate's own."""
LOW: tuple[Low, ...] = ("fp16", "bf16")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Judged:
    """One bundle on one archive of pairs."""

    network: str
    """The bundle's `model_id`."""
    pairs: str
    """Their number, and the archive's name."""
    exact: dict[str, float]
    """Scores in float32."""
    low: dict[Low, tuple[dict[str, float], dict[str, float]]]
    """Errors and scores in each precision."""
    largest: tuple[str, float]
    """The tensor that reaches furthest of those that float16 holds, and how far."""

    @property
    def missed(self) -> list[str]:
        """Bars that an error does not keep."""
        return [
            f"{self.network} in {low}: {name} {value:.3g}, to be {sense} {bar:g}"
            for low, (found, _) in self.low.items()
            for name, (sense, bar) in BARS.items()
            if name in found
            for value in [found[name]]
            if not (value < bar if sense == "below" else value > bar)
        ]


@app.command()
def main(
    judged: Annotated[
        list[Path],
        typer.Argument(help="A bundle of float32 arithmetic, its pairs (.npz), another bundle ..."),
    ],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write besides.")] = None,
) -> None:
    """Tell errors and scores in both precisions; one beyond its bar, or beyond float16, fails."""
    if len(judged) % 2:
        raise typer.BadParameter("expected a file of pairs after each bundle")
    results = []
    for bundle, pairs in zip(judged[::2], judged[1::2], strict=True):
        try:
            results.append(judge(bundle, pairs))
        except (ValueError, BundleError) as error:
            raise typer.BadParameter(str(error)) from error
        except RangeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        typer.echo("\n".join(lines(results[-1])))
    if out:
        named = " ".join(str(path) for path in judged)
        out.write_text(_page(results, f"python -m benchmarks.precision {named} --out {out}"))
    missed = [line for result in results for line in result.missed]
    for line in missed:
        typer.echo(f"error: {line}", err=True)
    if missed:
        raise typer.Exit(1)


def judge(bundle: Path, pairs: Path) -> Judged:
    """Run a bundle in every precision.

    Raises:
        ValueError: the bundle computes in 16 bits already, or the pairs do not fit.
        BundleError: it is no bundle.
        RangeError: a value does not fit into float16.
    """
    opened = open_bundle(bundle)
    if opened.manifest.precision != "fp32":
        raise ValueError(f"{bundle} computes in {opened.manifest.precision}")
    real = read_pairs(pairs, opened.manifest.input_size)
    graph = tidy(onnx.load(opened.model_path))
    forms = {low: lower(graph, low) for low in LOW}
    expected = _answers(graph, real)
    low: dict[Low, tuple[dict[str, float], dict[str, float]]] = {}
    for name, form in forms.items():
        found = _answers(emulate(form) if name == "bf16" else form, real)
        low[name] = errors(found, expected), scores(real, found)
    largest = check_range(graph, forms["fp16"], _batches(real))
    furthest = max(largest, key=lambda name: largest[name], default="")
    return Judged(
        opened.manifest.model_id,
        f"{len(real)} pairs of {real.name}",
        scores(real, expected),
        low,
        (furthest, largest.get(furthest, 0.0)),
    )


def lines(judged: Judged) -> list[str]:
    """For a terminal."""
    furthest, value = judged.largest
    return [
        f"{judged.network}, {judged.pairs}",
        f"fp32  {_text(judged.exact)}",
        *(f"{low}  {_text({**found, **scored})}" for low, (found, scored) in judged.low.items()),
        f"largest value in float16: {value:.0f}, {furthest}",
    ]


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


def _page(results: Sequence[Judged], command: str) -> str:
    bars = " and ".join(f"a {name} {sense} {bar:g}" for name, (sense, bar) in BARS.items())
    rows = [
        "# Fewer bits: what they cost",
        "",
        f"`{command}`, {datetime.datetime.now(datetime.UTC).date()}, ONNX Runtime "
        f"{onnxruntime.__version__} on a CPU ({processor()}). Errors are against the float32 graph "
        f"of the same bundle; the bar is {bars}. bfloat16 is a float32 graph that rounds in the "
        "same places: ONNX Runtime has no such kernels on CPUs. No GPU and no TensorRT ran.",
        "",
        "| network, pairs | precision | error | scores | largest value in float16 |",
        "|---|---|---|---|---|",
    ]
    for each in results:
        rows.append(f"| {each.network}, {each.pairs} | fp32 | | {_text(each.exact)} | |")
        for low, (found, scored) in each.low.items():
            furthest = f"{each.largest[1]:.0f}" if low == "fp16" else ""
            name = "bf16, emulated" if low == "bf16" else low
            rows.append(f"| | {name} | {_text(found)} | {_text(scored)} | {furthest} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    app()
