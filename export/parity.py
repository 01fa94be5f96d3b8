"""What every conversion step costs: answers compared at several batch sizes, or no bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.inputs import parity_pairs
from export.judge import RealPairs, scores
from model.bundle import Bundle

Array = NDArray[np.float32]
Run = Callable[[NDArray[np.uint8], Array], Array]
"""`rgb` and `aux` in, one answer per row out."""

PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13")
BATCHES = (1, 3, 8)
"""Alone, an odd number, a full batch."""
RUNS = 8
"""Of real pairs at each batch size but the largest, at which all are run."""
MAX_ABS_ERROR = 1e-5
"""Bar on maps in [0, 1], under one step of a 16-bit answer (1.5e-5), and on the numbers of unit
embeddings; float32 arithmetic in another order differs by about 1e-6. Where float32 itself is
further from float64, see `NOISE_FACTOR`."""
NOISE_FACTOR = 2
"""A form may be twice as far from float64 as torch in float32 is. A network that is sure of itself
amplifies rounding: up to 1.4e-5 on 25 real pairs, measured with a compact saliency network.
"""
MIN_COSINE = 0.99999
"""An embedding must be closer than this to its form before."""
LOW_MEAN_ERROR = 2e-3
"""Bar on the mean absolute error of maps where products are computed in 16 bits."""
LOW_COSINE = 0.999
"""Bar on embeddings there."""
MAX_BATCH_EFFECT = 1e-6
"""Bar on how far an answer may depend on its batch-mates on a CPU."""


class ParityError(Exception):
    """A conversion step changed the answers by more than it may."""


@dataclass(frozen=True)
class Stage:
    """One form of the network on its way to the bundle."""

    name: str
    """Of the step that leads to this form, as in `parity.json`."""
    run: Run
    tolerance: float | None
    """Largest absolute difference from the form before; none: measured, not judged."""
    low: bool = False
    """Whether products are computed in 16 bits from here on: judged by their own bars."""


def check_parity(
    stages: Sequence[Stage],
    size: tuple[int, int],
    real: RealPairs | None = None,
    *,
    plain: Run | None = None,
    batches: Sequence[int] = BATCHES,
    batch_effect: float = MAX_BATCH_EFFECT,
) -> dict[str, Any]:
    """Compare every stage with the one before, and the last with the first.

    Answers of two axes are embeddings; their direction is compared besides.

    Args:
        stages: from the trained network to the runtime that will serve it.
        size: (height, width) of the inputs.
        real: pairs to judge on besides the formula-made ones, of which the task's scores of every
            stage are taken as well.
        plain: the first stage in float32, if the stage itself is in float64; tolerances grow to
            `NOISE_FACTOR` times the distance.
        batches: sizes to compare at.
        batch_effect: how far an answer of the last stage may depend on its batch-mates.

    Returns:
        The certificate: the content of `parity.json`.

    Raises:
        ParityError: a difference exceeds its tolerance; the message names step and size of it.
    """
    rgb, aux = parity_pairs(size)
    # Every batch starts at another row, so that a row is seen in several places.
    rows = {batch: np.arange(-batch, 0) % len(rgb) for batch in batches}
    answers = [
        {batch: stage.run(rgb[rows[batch]], aux[rows[batch]]) for batch in batches}
        for stage in stages
    ]
    on_real = (
        [
            {
                batch: _in_batches(stage.run, real, batch, None if batch == max(batches) else RUNS)
                for batch in batches
            }
            for stage in stages
        ]
        if real
        else []
    )
    noise = real_noise = 0.0
    if plain is not None:
        noise = _distance(plain(rgb, aux), stages[0].run(rgb, aux))
        if real:
            most = max(batches)
            real_noise = _distance(_in_batches(plain, real, most), on_real[0][most])
    steps = [
        _step(stage, before, after, noise)
        for stage, before, after in zip(stages[1:], answers, answers[1:], strict=False)
    ]
    judged = all(stage.tolerance is not None for stage in stages[1:])
    low = any(stage.low for stage in stages)
    overall = Stage("end_to_end", stages[-1].run, MAX_ABS_ERROR if judged else None, low)
    steps.append(_step(overall, answers[0], answers[-1], noise))
    if real:
        befores, afters = [*on_real[:-1], on_real[0]], [*on_real[1:], on_real[-1]]
        for step, stage, before, after in zip(
            steps, (*stages[1:], overall), befores, afters, strict=True
        ):
            step["real"] = _step(stage, before, after, real_noise)
    last, most = stages[-1].run, max(batches)
    alone = np.concatenate([last(rgb[i : i + 1], aux[i : i + 1]) for i in range(len(rgb))])
    invariance = Stage("batch_invariance", last, batch_effect)
    steps.append(_step(invariance, {most: alone[rows[most]]}, {most: answers[-1][most]}))
    _judge(steps)
    return {
        "steps": steps,
        **(_on_task(stages, real, on_real) if real else {}),
        **({} if plain is None else {"float32_error": {"formula": noise, "real": real_noise}}),
        "canary_tolerance": _canary_tolerance(steps),
        "inputs": "export.inputs.parity_pairs",
        "batches": list(batches),
        "size": list(size),
        "versions": _versions(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def check_engine(
    graph: Run,
    engine: Run,
    bundle: Bundle,
    most: int,
    real: RealPairs | None = None,
) -> dict[str, Any]:
    """Compare an engine with the graph that it was built from, at batch 1, 3 and `most`.

    Kernels differ from batch to batch, so the canary's tolerance is the bar of everything.

    Returns:
        The engine's certificate, as `check_parity` has it.

    Raises:
        ParityError: a difference exceeds its tolerance.
    """
    bar = bundle.canary_tolerance
    low = bundle.manifest.precision != "fp32"
    return check_parity(
        [Stage("graph", graph, None), Stage("engine", engine, bar, low)],
        bundle.manifest.input_size,
        real,
        batches=sorted({1, min(3, most), most}),
        batch_effect=bar,
    )


def _versions() -> dict[str, str]:
    """Of what may have taken part, as far as it is installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _in_batches(run: Run, real: RealPairs, size: int, runs: int | None = None) -> Array:
    """Answers of the pairs of so many runs, or of all, `size` at a time."""
    starts = range(0, len(real), size)[:runs]
    parts = [
        run(real.rgb[start : start + size], real.aux[start : start + size]) for start in starts
    ]
    return np.concatenate(parts)


def _on_task(
    stages: Sequence[Stage], real: RealPairs, answers: Sequence[dict[int, Array]]
) -> dict[str, Any]:
    return {
        "real": {
            "file": real.name,
            "pairs": len(real),
            "scores": {
                stage.name: scores(real, each[max(each)])
                for stage, each in zip(stages, answers, strict=True)
            },
        }
    }


def _canary_tolerance(steps: Sequence[dict[str, Any]]) -> float:
    """How far another machine's answers to the canary may be from the exporter's.

    Torch and ONNX Runtime compute the same float32 sums in two orders; a hundred times their
    difference is far from any mistake, and any other machine's kernels are well within. In 16 bits
    another order rounds elsewhere, by about as much as rounding costs at all; twice that.
    """
    for step in steps:
        if step["low"]:
            return float(max(2 * step["max_abs_error"], 1e-3))
    errors = {step["step"]: step["max_abs_error"] for step in steps}
    return float(max(100 * errors.get("onnxruntime", 0.0), 1e-4))


def _distance(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())


def _step(
    stage: Stage, before: dict[int, Array], after: dict[int, Array], noise: float = 0.0
) -> dict[str, Any]:
    """Errors at every batch size, and the worst and the mean of them."""
    by_batch = {
        str(batch): _errors(stage.name, expected, after[batch])
        for batch, expected in before.items()
    }
    tolerance = stage.tolerance
    if tolerance is not None:
        tolerance = max(tolerance, NOISE_FACTOR * noise)
    rows = [len(expected) for expected in before.values()]
    overall: dict[str, Callable[[list[float]], Any]] = {
        "max_abs_error": np.max,
        "mean_abs_error": lambda means: np.average(means, weights=rows),
        "min_cosine": np.min,
    }
    return {
        "step": stage.name,
        "tolerance": tolerance,
        "low": stage.low,
        **{
            measure: float(of_all([each[measure] for each in by_batch.values()]))
            for measure, of_all in overall.items()
            if all(measure in each for each in by_batch.values())
        },
        "by_batch": by_batch,
    }


def _errors(name: str, before: Array, after: Array) -> dict[str, float]:
    if after.shape != before.shape:
        raise ParityError(f"{name}: shape {after.shape}, expected {before.shape}")
    # float64, so that the difference itself is exact; what is not finite becomes NaN and fails.
    with np.errstate(invalid="ignore"):
        error = np.abs(after.astype(np.float64) - before)
        return {
            "max_abs_error": float(error.max()),
            "mean_abs_error": float(error.mean()),
            **({"min_cosine": _min_cosine(after, before)} if error.ndim == 2 else {}),
        }


def _min_cosine(a: Array, b: Array) -> float:
    """Of the rows of two (B, D); NaN where one is not finite or 0."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(((a * b).sum(axis=1) / lengths).min())


def _judge(steps: list[dict[str, Any]]) -> None:
    failed = []
    for step in steps:
        failed += [f"{step['step']}: {what}" for what in _beyond(step)]
        if "real" in step:
            failed += [f"{step['step']} on real pairs: {what}" for what in _beyond(step["real"])]
    if failed:
        raise ParityError("; ".join(failed))


def _beyond(step: dict[str, Any]) -> list[str]:
    """Which bars its errors do not keep."""
    beyond = []
    tolerance, cosine = step["tolerance"], step.get("min_cosine")
    error, mean = step["max_abs_error"], step["mean_abs_error"]
    if tolerance is not None and not error <= tolerance:
        beyond.append(f"max abs error {error:.3g}, at most {tolerance:g}")
    if step["low"] and cosine is None and not mean <= LOW_MEAN_ERROR:
        beyond.append(f"mean abs error {mean:.3g}, at most {LOW_MEAN_ERROR:g}")
    bar = LOW_COSINE if step["low"] else MIN_COSINE
    if cosine is not None and (step["low"] or tolerance is not None) and not cosine > bar:
        beyond.append(f"cosine {cosine:.7f}, must be above {bar}")
    return beyond
