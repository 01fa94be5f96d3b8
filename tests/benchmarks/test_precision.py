from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.precision import Judged, app, errors
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


def test_bundles_are_judged_in_both_precisions(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    rgb, aux = scenes(9, (SIDE, SIDE))
    np.savez(tmp_path / "pairs.npz", rgb=rgb, aux=aux, gt=aux[:2, ..., 0] > 0.5)
    both = [str(bundle.path), str(tmp_path / "pairs.npz")]
    out = tmp_path / "precision.md"

    result = CliRunner().invoke(app, [*both, *both, "--out", str(out)])

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "tiny@1, 9 pairs of pairs.npz"
    assert [line.split()[0] for line in lines[1:4]] == ["fp32", "fp16", "bf16"]
    assert all("mae 0." in line for line in lines[1:4])
    assert lines[:5] == lines[5:]
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows[1:]] == ["fp32", "fp16", "bf16, emulated"] * 2


def test_a_bundle_without_pairs_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path)])

    assert result.exit_code == 2
    assert "expected a file of pairs after each bundle" in result.output


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({"mean abs error": 1.9e-3}, []),
        ({"mean abs error": 2e-3}, ["a@1 in fp16: mean abs error 0.002, to be below 0.002"]),
        ({"mean abs error": math.nan}, ["a@1 in fp16: mean abs error nan, to be below 0.002"]),
        ({"least cosine": 0.9991}, []),
        ({"least cosine": 0.998}, ["a@1 in fp16: least cosine 0.998, to be above 0.999"]),
    ],
)
def test_an_error_beyond_its_bar_is_named(found: dict[str, float], missed: list[str]) -> None:
    judged = Judged("a@1", "2 pairs", {}, {"fp16": (found, {})}, ("", 0.0))

    assert judged.missed == missed
