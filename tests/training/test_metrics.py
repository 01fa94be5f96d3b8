from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.metrics import SaliencyScores, score_map

ORACLE = Path(__file__).parents[3] / "shared" / "data" / "metric_oracle"


@pytest.mark.skipif(not ORACLE.is_dir(), reason="needs ../shared/data/metric_oracle")
def test_scores_agree_with_the_oracle() -> None:
    expected = json.loads((ORACLE / "version_performance.json").read_text())["v1_4_0"]
    scores = SaliencyScores()
    for mask in sorted((ORACLE / "test_data" / "masks").iterdir()):
        pred = ORACLE / "test_data" / "preds" / mask.name
        with Image.open(pred) as image, Image.open(mask) as gt:
            scores.add_quantised(np.asarray(image.convert("L")), np.asarray(gt.convert("L")))

    results = scores.results()

    assert results["s_measure"] == pytest.approx(expected["Smeasure"], abs=1e-9)
    assert results["max_f"] == pytest.approx(expected["maxFm"], abs=1e-9)
    assert results["max_e"] == pytest.approx(expected["maxEm"], abs=1e-9)
    assert results["mae"] == pytest.approx(expected["MAE"], abs=1e-9)


def test_curves_begin_at_the_threshold_zero() -> None:
    rng = np.random.default_rng(0)
    gt = rng.random((40, 50)) < 0.3
    pred = (rng.integers(0, 256, gt.shape) * np.where(gt, 1.0, 0.6)).astype(np.uint8)
    pred[0, :2] = 0, 255  # its range is the whole one already

    scores = score_map(pred, gt.astype(np.uint8) * 255)

    for threshold in (0, 100, 255):
        found = pred >= threshold
        right = (found & gt).sum()
        assert scores.precision[threshold] == pytest.approx(right / found.sum())
        assert scores.recall[threshold] == pytest.approx(right / gt.sum())
        p, r = scores.precision[threshold], scores.recall[threshold]
        assert scores.f[threshold] == pytest.approx(1.3 * p * r / (0.3 * p + r))
    everything = np.full_like(pred, 255)
    assert scores.e[0] == pytest.approx(score_map(everything, gt.astype(np.uint8) * 255).e[0])


def test_a_perfect_map_scores_perfectly() -> None:
    gt = np.zeros((40, 50), bool)
    gt[10:30, 10:30] = True
    scores = SaliencyScores()

    scores.add(gt.astype(np.float32), gt)

    results = scores.results()
    assert results["mae"] == 0
    assert min(results["s_measure"], results["max_f"], results["max_e"]) > 0.99


def test_a_worse_map_scores_worse() -> None:
    gt = np.zeros((40, 50), bool)
    gt[10:30, 10:30] = True
    results = []
    for shift in (2, 8):
        scores = SaliencyScores()
        scores.add(np.roll(gt, shift, axis=1).astype(np.float32), gt)
        results.append(scores.results())

    better, worse = results
    assert better["s_measure"] > worse["s_measure"]
    assert better["max_f"] > worse["max_f"]
    assert better["mae"] < worse["mae"]
