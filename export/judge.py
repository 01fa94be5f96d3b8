"""Real pairs that a conversion is judged on besides the formula-made ones, and their task's scores.

A file of them is a NumPy archive of prepared inputs: `rgb` uint8 (N, H, W, 3), `aux` float32
(N, H, W, 1) in [0, 1], and, if known, the truth: `gt` bool (M, H, W) of the first M <= N pairs for
saliency, `pid` and `camid` int (N,) for re-identification. `python -m training pairs` writes one.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRUTHS = ("gt", "pid", "camid")


@dataclass(frozen=True)
class RealPairs:
    """Prepared pairs, and what is known of them."""

    name: str
    """Of the file, for the certificate."""
    rgb: NDArray[np.uint8]
    aux: NDArray[np.float32]
    gt: NDArray[np.bool_] | None = None
    pid: NDArray[np.int64] | None = None
    camid: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rgb)


def read_pairs(path: Path, size: tuple[int, int]) -> RealPairs:
    """Read an archive of pairs that are (height, width) `size`.

    Raises:
        ValueError: it is no such archive, or its arrays have other shapes or types.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rgb, aux = arrays["rgb"], arrays["aux"]
            truths = {name: arrays[name] for name in TRUTHS if name in arrays}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error
    count = len(rgb) if rgb.ndim else 0
    expected: dict[str, tuple[NDArray[Any], Any, tuple[int, ...]]] = {
        "rgb": (rgb, np.uint8, (count, *size, 3)),
        "aux": (aux, np.float32, (count, *size, 1)),
    }
    for name, array in truths.items():
        known = min(array.shape[0], count) if array.ndim else 0
        gt = name == "gt"
        expected[name] = (array, np.bool_, (known, *size)) if gt else (array, array.dtype, (count,))
    for name, (array, dtype, shape) in expected.items():
        if count == 0 or array.dtype != dtype or array.shape != shape:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}, "
                f"expected {np.dtype(dtype)} {shape} with at least one row"
            )
    return RealPairs(path.name, rgb, aux, **truths)


def scores(pairs: RealPairs, answers: NDArray[np.float32]) -> dict[str, float]:
    """Of these answers, as far as the truth is known: higher is better, but for `mae`."""
    if answers.ndim == 3 and pairs.gt is not None:
        return _saliency_scores(answers[: len(pairs.gt)], pairs.gt)
    if answers.ndim == 2 and pairs.pid is not None and pairs.camid is not None:
        return _reid_scores(answers, pairs.pid, pairs.camid)
    return {}


def _saliency_scores(maps: NDArray[np.float32], gt: NDArray[np.bool_]) -> dict[str, float]:
    from py_sod_metrics import Smeasure

    measure = Smeasure()
    for found, truth in zip(maps, gt, strict=True):
        measure.step(found, truth, normalize=False)
    return {
        "mae": float(np.abs(maps.astype(np.float64) - gt).mean()),
        "s_measure": float(measure.get_results()["sm"]),
    }


def _reid_scores(
    embeddings: NDArray[np.float32], pid: NDArray[np.int64], camid: NDArray[np.int64]
) -> dict[str, float]:
    """Every pair searches all others, but those of its own individual before the same camera."""
    cosines = embeddings.astype(np.float64) @ embeddings.T
    firsts, precisions = [], []
    for row, ranking in enumerate(np.argsort(-cosines, axis=1, kind="stable")):
        ranking = ranking[(pid[ranking] != pid[row]) | (camid[ranking] != camid[row])]
        hits = np.flatnonzero(pid[ranking] == pid[row])
        if len(hits):
            firsts.append(hits[0] == 0)
            precisions.append((np.arange(1, len(hits) + 1) / (hits + 1)).mean())
    if not firsts:
        return {}
    return {"rank_1": float(np.mean(firsts)), "mean_ap": float(np.mean(precisions))}
