from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.precision import app, errors
from export.inputs import scenes
from tests.app.tiny import SIDE, write_bundle


def test_maps_are_compared_by_their_mean_and_embeddings_by_their_angle() -> None:
    expected = np.zeros((2, 4, 5), np.float32)
    found = expected.copy()
    found[1, 0, 0] = 0.5
    unit = np.eye(3, dtype=np.float32)
    turned = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 0, 1]], np.float32)

    assert errors(found, expected) == pytest.approx(
        {"mean abs error": 0.0125, "of the worst pair": 0.025, "largest": 0.5}
    )
    assert errors(turned, unit) == pytest.approx({"least cosine": 0.6})


def test_a_bundle_is_judged_in_both_precisions(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    rgb, aux = scenes(9, (SIDE, SIDE))
    np.savez(tmp_path / "pairs.npz", rgb=rgb, aux=aux, gt=aux[:2, ..., 0] > 0.5)

    result = CliRunner().invoke(app, [str(bundle.path), str(tmp_path / "pairs.npz")])

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "tiny@1, 9 pairs of pairs.npz"
    assert [line.split()[0] for line in lines[1:4]] == ["fp32", "fp16", "bf16"]
    assert all("mae 0." in line for line in lines[1:4])
