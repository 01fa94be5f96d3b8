"""What every conversion step costs: answers compared at several batch sizes, or no bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.inputs import parity_pairs

Array = NDArray[np.float32]
Run = Callable[[NDArray[np.uint8], Array], Array]
"""`rgb` and `aux` in, one answer per row out."""

BATCHES = (1, 3, 8)
"""Alone, an odd number, a full batch."""
MAX_ABS_ERROR = 1e-5
"""Bar on maps in [0, 1], under one step of a 16-bit answer (1.5e-5), and on the numbers of unit
embeddings; float32 arithmetic in another order differs by about 1e-6."""
MIN_COSINE = 0.99999
"""An embedding must be closer than this to its form before."""
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


def check_parity(stages: Sequence[Stage], size: tuple[int, int]) -> dict[str, Any]:
    """Compare every stage with the one before, and the last with the first.

    Answers of two axes are embeddings; their direction is compared besides.

    Args:
        stages: from the trained network to the runtime that will serve it.
        size: (height, width) of the inputs.

    Returns:
        The content of `parity.json`.

    Raises:
        ParityError: a difference exceeds its tolerance; the message names step and size of it.
    """
    rgb, aux = parity_pairs(size)
    # Every batch starts at another row, so that a row is seen in several places.
    rows = {batch: slice(len(rgb) - batch, None) for batch in BATCHES}
    answers = [
        {batch: stage.run(rgb[rows[batch]], aux[rows[batch]]) for batch in BATCHES}
        for stage in stages
    ]
    steps = [
        _step(stage.name, before, after, stage.tolerance)
        for stage, before, after in zip(stages[1:], answers, answers[1:], strict=False)
    ]
    judged = all(stage.tolerance is not None for stage in stages[1:])
    overall = MAX_ABS_ERROR if judged else None
    steps.append(_step("end_to_end", answers[0], answers[-1], overall))
    last, full = stages[-1].run, answers[-1][max(BATCHES)]
    alone = np.concatenate([last(rgb[i : i + 1], aux[i : i + 1]) for i in range(len(rgb))])
    steps.append(_step("batch_invariance", {len(rgb): alone}, {len(rgb): full}, MAX_BATCH_EFFECT))
    _judge(steps)
    return {
        "steps": steps,
        "inputs": "export.inputs.parity_pairs",
        "batches": list(BATCHES),
        "size": list(size),
        "versions": {name: version(name) for name in ("torch", "timm", "onnx", "onnxruntime")},
        "machine": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _step(
    name: str, before: dict[int, Array], after: dict[int, Array], tolerance: float | None
) -> dict[str, Any]:
    by_batch = {}
    for batch, expected in before.items():
        if after[batch].shape != expected.shape:
            raise ParityError(f"{name}: shape {after[batch].shape}, expected {expected.shape}")
        # float64, so that the difference itself is exact; what is not finite becomes NaN and fails.
        with np.errstate(invalid="ignore"):
            error = np.abs(after[batch].astype(np.float64) - expected)
            by_batch[str(batch)] = {
                "max_abs_error": float(error.max()),
                "mean_abs_error": float(error.mean()),
                **({"min_cosine": _min_cosine(after[batch], expected)} if error.ndim == 2 else {}),
            }
    overall: dict[str, Callable[[list[float]], Any]] = {
        "max_abs_error": np.max,
        "mean_abs_error": np.mean,
        "min_cosine": np.min,
    }
    return {
        "step": name,
        "tolerance": tolerance,
        **{
            measure: float(of_all([each[measure] for each in by_batch.values()]))
            for measure, of_all in overall.items()
            if all(measure in each for each in by_batch.values())
        },
        "by_batch": by_batch,
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
        tolerance, cosine = step["tolerance"], step.get("min_cosine", 1.0)
        if tolerance is None:
            continue
        error = step["max_abs_error"]
        if not error <= tolerance:
            failed.append(f"{step['step']}: max abs error {error:.3g}, at most {tolerance:g}")
        if not cosine > MIN_COSINE:
            failed.append(f"{step['step']}: cosine {cosine:.7f}, must be above {MIN_COSINE}")
    if failed:
        raise ParityError("; ".join(failed))
