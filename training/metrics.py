"""Scores of both tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import py_sod_metrics
from numpy.typing import NDArray
from scipy import sparse

from training.data.reid_sets import Rule

CHUNK = 256
"""Queries compared at once: 25,000 gallery features take 25 MB then."""
RANKS = (1, 5, 10)
"""Of the cumulative match characteristic."""


THRESHOLDS = 256
"""At which a map is cut, 0 to 255, for every curve."""


class ImageScores(NamedTuple):
    """What one map scores."""

    s_measure: float
    mae: float
    f: NDArray[np.float64]
    """F-measure with beta^2 = 0.3 at each threshold, (256,)."""
    e: NDArray[np.float64]
    """Enhanced alignment at each threshold, (256,)."""
    precision: NDArray[np.float64]
    """At each threshold, (256,)."""
    recall: NDArray[np.float64]
    """At each threshold, (256,)."""

    def results(self) -> dict[str, float]:
        """`s_measure`, `max_f`, `max_e`, `mae`, the maxima over this map's own curves."""
        return {
            "s_measure": self.s_measure,
            "max_f": float(self.f.max()),
            "max_e": float(self.e.max()),
            "mae": self.mae,
        }


def quantised(pred: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map in [0, 1] as 8 bits, as it is written and scored; any shape, and the same."""
    return np.round(pred * 255).astype(np.uint8)


def score_map(pred: NDArray[np.uint8], gt: NDArray[np.uint8]) -> ImageScores:
    """Score one 8-bit map against an 8-bit mask, the object above 128, by pysodmetrics.

    Convention of the field's tables: a map is stretched to its own range first. Both are (H, W).
    """
    mae, s_measure, e_measure = (
        py_sod_metrics.MAE(),
        py_sod_metrics.Smeasure(),
        py_sod_metrics.Emeasure(),
    )
    curves: dict[str, Any] = {"with_dynamic": True, "with_adaptive": False}
    f_measure = py_sod_metrics.FmeasureV2(
        metric_handlers={
            "f": py_sod_metrics.FmeasureHandler(**curves, beta=0.3),
            "precision": py_sod_metrics.PrecisionHandler(**curves),
            "recall": py_sod_metrics.RecallHandler(**curves),
        }
    )
    for metric in (mae, s_measure, e_measure, f_measure):
        metric.step(pred=pred, gt=gt)
    # The library's curves begin at the threshold 255, whatever its docstrings say.
    found = {name: each["dynamic"][::-1] for name, each in f_measure.get_results().items()}
    return ImageScores(
        float(s_measure.get_results()["sm"]),
        float(mae.get_results()["mae"]),
        e=e_measure.get_results()["em"]["curve"][::-1],
        **found,
    )


class SaliencyScores:
    """S-measure, max F-measure, max E-measure and MAE over a set.

    Convention of the field's tables: each prediction is quantised to 8 bits and stretched to its
    own range; maxima are of the curve averaged over images; beta^2 = 0.3.
    """

    def __init__(self, images: Iterable[ImageScores] = ()) -> None:
        self.images = list(images)

    def add(self, pred: NDArray[np.floating], gt: NDArray[np.bool_]) -> ImageScores:
        """Score one image.

        Args:
            pred: (H, W) in [0, 1].
            gt: bool (H, W).
        """
        return self.add_quantised(quantised(pred), gt.astype(np.uint8) * 255)

    def add_quantised(self, pred: NDArray[np.uint8], gt: NDArray[np.uint8]) -> ImageScores:
        """Score one 8-bit map against an 8-bit mask; see `score_map`."""
        self.images.append(score_map(pred, gt))
        return self.images[-1]

    def results(self) -> dict[str, float]:
        """`s_measure`, `max_f`, `max_e`, `mae` over all images added so far."""
        curves = self.curves()
        return {
            "s_measure": float(np.mean([image.s_measure for image in self.images])),
            "max_f": float(curves["f"].max()),
            "max_e": float(curves["e"].max()),
            "mae": float(np.mean([image.mae for image in self.images])),
        }

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """`f`, `e`, `precision`, `recall` at thresholds 0 to 255, averaged over images; (256,)."""
        return {
            name: np.mean([getattr(image, name) for image in self.images], axis=0)
            for name in ("f", "e", "precision", "recall")
        }


@dataclass(frozen=True)
class Embedded:
    """Embeddings with what is known of their crops."""

    values: NDArray[np.float32]
    """(N, D), unit length."""
    pid: NDArray[np.int64]
    """Identity, (N,); numbered alike in query and gallery."""
    camid: NDArray[np.int64]
    """Camera, (N,)."""
    scene: NDArray[np.int64]
    """(N,)."""


class Found(NamedTuple):
    """The answer to one query."""

    order: NDArray[np.int64]
    """Indices into the gallery, nearest first, without the crops that do not count."""
    right: NDArray[np.bool_]
    """Whether each is of the query's identity."""


def search(
    query: Embedded, gallery: Embedded, rule: Rule, *, rerank: bool = False
) -> Iterator[Found]:
    """Order the gallery for every query by cosine similarity; equal ones keep the gallery's order.

    A query's own identity in its own camera (or scene, by `rule`) does not count, so the query set
    may be its own gallery.

    Args:
        query: what is searched for.
        gallery: what is searched in.
        rule: which crops of the same identity do not count.
        rerank: order by k-reciprocal re-ranking instead, see `reranked`.

    Yields:
        One answer for each query, in order.
    """
    similarities = reranked(query.values, gallery.values) if rerank else _compared(query, gallery)
    query_place, gallery_place = (
        (each.scene if rule == "scene" else each.camid) for each in (query, gallery)
    )
    for index, similarity in enumerate(row for chunk in similarities for row in chunk):
        same = gallery.pid == query.pid[index]
        dropped = same & (gallery_place == query_place[index])
        order = np.argsort(-similarity, kind="stable")
        order = order[~dropped[order]]
        yield Found(order, same[order])


def reid_scores(answers: Iterable[Found]) -> dict[str, float]:
    """Mean average precision, CMC and mean inverse negative penalty.

    Average precision is not interpolated: the mean, over the crops to find, of the precision down
    to each. INP is the number of crops to find over the rank of the last (Ye et al., TPAMI 2021).
    A query that has none to find is skipped.

    Returns:
        `mean_ap`, `rank1`, `rank5`, `rank10`, `minp` in [0, 1]; how many `queries` counted and how
        many were `skipped`.

    Raises:
        ValueError: every query was skipped.
    """
    precisions, penalties, firsts = [], [], []
    skipped = 0
    for answer in answers:
        ranks = np.flatnonzero(answer.right) + 1
        if len(ranks) == 0:
            skipped += 1
            continue
        precisions.append((np.arange(1, len(ranks) + 1) / ranks).mean())
        penalties.append(len(ranks) / ranks[-1])
        firsts.append(ranks[0])
    if not firsts:
        raise ValueError(f"none of {skipped} queries has a crop to find that counts")
    first = np.array(firsts)
    return {
        "mean_ap": float(np.mean(precisions)),
        **{f"rank{rank}": float((first <= rank).mean()) for rank in RANKS},
        "minp": float(np.mean(penalties)),
        "queries": len(firsts),
        "skipped": skipped,
    }


def _compared(query: Embedded, gallery: Embedded) -> Iterator[NDArray[np.float32]]:
    for first in range(0, len(query.values), CHUNK):
        yield query.values[first : first + CHUNK] @ gallery.values.T


def reranked(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k1: int = 50,
    k2: int = 15,
    original_weight: float = 0.3,
) -> Iterator[NDArray[np.float32]]:
    """Similarities after k-reciprocal re-ranking (Zhong et al., CVPR 2017), some queries at a time.

    Only neighbours are kept of the distances between all crops, so memory grows with their number
    and not its square.

    Args:
        query: (Q, D), unit length.
        gallery: (G, D), unit length.
        k1: neighbours that must name each other.
        k2: neighbours over which encodings are averaged.
        original_weight: weight of the plain distance against the Jaccard distance.

    Yields:
        Negative distances, (up to CHUNK, G).
    """
    features = np.concatenate((query, gallery))
    neighbours, largest = _neighbours(features, k1 + 1)
    encoding = _encoded(features, neighbours, largest, k1)
    if k2 > 1:
        near = neighbours[:, :k2]
        rows = np.repeat(np.arange(len(features)), near.shape[1])
        mean = sparse.csr_array(
            (np.full(near.size, 1 / near.shape[1], np.float32), (rows, near.ravel())),
            shape=(len(features),) * 2,
        )
        encoding = mean @ encoding
    columns = encoding[len(query) :].tocsc()
    for first in range(0, len(query), CHUNK):
        here = query[first : first + CHUNK]
        plain: NDArray[np.float32] = (2 - 2 * here @ gallery.T) / largest[
            first : first + len(here), None
        ]
        jaccard = np.empty_like(plain)
        for row in range(len(here)):
            jaccard[row] = 1 - _shared(encoding[[first + row]], columns)
        yield -(original_weight * plain + (1 - original_weight) * jaccard)


def _neighbours(
    features: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of all to each, itself first, and its largest squared distance."""
    count = min(count, len(features))
    nearest = np.empty((len(features), count), np.int64)
    largest = np.empty(len(features), np.float32)
    for first in range(0, len(features), CHUNK):
        rows = slice(first, first + CHUNK)
        distance = 2 - 2 * features[rows] @ features.T
        distance[np.arange(len(distance)), np.arange(first, first + len(distance))] = -1
        largest[rows] = np.maximum(distance.max(axis=1), 1e-12)
        near = np.sort(np.argpartition(distance, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(np.take_along_axis(distance, near, 1), axis=1, kind="stable")
        nearest[rows] = np.take_along_axis(near, order, 1)
    return nearest, largest


def _encoded(
    features: NDArray[np.float32],
    neighbours: NDArray[np.int64],
    largest: NDArray[np.float32],
    k1: int,
) -> sparse.csr_array:
    """Each crop as weights, of sum 1, over its k-reciprocal neighbours and theirs."""

    def reciprocal(index: int, count: int) -> NDArray[np.int64]:
        near = neighbours[index, :count]
        mutual: NDArray[np.int64] = near[(neighbours[near, :count] == index).any(axis=1)]
        return mutual

    half = round(k1 / 2) + 1
    of_each = [reciprocal(index, half) for index in range(len(features))]
    indices, weights, starts = [], [], [0]
    for index in range(len(features)):
        core = reciprocal(index, k1 + 1)
        wide = [core]
        for other in core:
            theirs = of_each[other]
            if len(np.intersect1d(theirs, core)) > 2 / 3 * len(theirs):
                wide.append(theirs)
        chosen = np.unique(np.concatenate(wide))
        distance = np.maximum(2 - 2 * features[chosen] @ features[index], 0) / largest[index]
        weight = np.exp(-distance)
        indices.append(chosen)
        weights.append(weight / weight.sum())
        starts.append(starts[-1] + len(chosen))
    return sparse.csr_array(
        (np.concatenate(weights), np.concatenate(indices), np.array(starts)),
        shape=(len(features),) * 2,
    )


def _shared(one: sparse.csr_array, columns: sparse.csc_array) -> NDArray[np.float32]:
    """Jaccard similarity of one encoding (1, N) with each row of `columns` (G, N)."""
    least = np.zeros(columns.shape[0], np.float32)
    for column, weight in zip(one.indices, one.data, strict=True):
        span = slice(columns.indptr[column], columns.indptr[column + 1])
        least[columns.indices[span]] += np.minimum(columns.data[span], weight)
    result: NDArray[np.float32] = least / (2 - least)
    return result
