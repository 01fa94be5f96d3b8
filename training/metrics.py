"""Scores of both tasks."""

from __future__ import annotations

import numpy as np
import py_sod_metrics
from numpy.typing import NDArray


class SaliencyScores:
    """S-measure, max F-measure, max E-measure and MAE over a set, by pysodmetrics.

    Convention of the field's tables: each prediction is quantised to 8 bits and stretched to its
    own range; maxima are of the curve averaged over images; beta^2 = 0.3.
    """

    def __init__(self) -> None:
        self._mae = py_sod_metrics.MAE()
        self._s_measure = py_sod_metrics.Smeasure()
        self._e_measure = py_sod_metrics.Emeasure()
        self._f_measure = py_sod_metrics.FmeasureV2(
            metric_handlers={
                "fm": py_sod_metrics.FmeasureHandler(
                    with_dynamic=True, with_adaptive=False, beta=0.3
                )
            }
        )

    def add(self, pred: NDArray[np.floating], gt: NDArray[np.bool_]) -> None:
        """Score one image.

        Args:
            pred: (H, W) in [0, 1].
            gt: bool (H, W).
        """
        quantised = np.round(pred * 255).astype(np.uint8)
        self.add_quantised(quantised, gt.astype(np.uint8) * 255)

    def add_quantised(self, pred: NDArray[np.uint8], gt: NDArray[np.uint8]) -> None:
        """Score one 8-bit map against an 8-bit mask, the object above 128; both (H, W)."""
        for metric in (self._mae, self._s_measure, self._e_measure, self._f_measure):
            metric.step(pred=pred, gt=gt)

    def results(self) -> dict[str, float]:
        """`s_measure`, `max_f`, `max_e`, `mae` over all images added so far."""
        return {
            "s_measure": float(self._s_measure.get_results()["sm"]),
            "max_f": float(self._f_measure.get_results()["fm"]["dynamic"].max()),
            "max_e": float(self._e_measure.get_results()["em"]["curve"].max()),
            "mae": float(self._mae.get_results()["mae"]),
        }
