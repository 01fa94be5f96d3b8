from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.training.scenes import write_triple
from training.data.rgbd_sets import find_sets
from training.evaluate import evaluate_saliency, table


class DepthRuntime:
    """Answers the depth it was given: right where near is bright, wrong where it is dark."""

    name, device = "depth", "cpu"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        assert rgb.shape[1:3] == aux.shape[1:3]
        return (aux[..., 0] > 0.7).astype(np.float32)

    def close(self) -> None: ...


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    for pack in ("one", "two"):
        for index in range(3):
            write_triple(tmp_path / "packs" / pack, f"{index}", index)
    return tmp_path / "packs"


def test_scores_and_sheets_are_written_for_every_set(packs: Path, tmp_path: Path) -> None:
    report = evaluate_saliency(DepthRuntime(), find_sets(packs), (64, 64), tmp_path / "out")

    assert list(report) == ["one", "two", "all"]
    assert report["all"]["images"] == 6
    assert report["one"]["s_measure"] > 0.9
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == report
    with Image.open(tmp_path / "out" / "one.png") as sheet:
        assert sheet.width == 8 * 192


def test_polarity_is_per_set(packs: Path, tmp_path: Path) -> None:
    sets = find_sets(packs, {"two": "near_dark"})

    report = evaluate_saliency(DepthRuntime(), sets, (64, 64), tmp_path / "out")

    assert report["one"]["mae"] < 0.1
    assert report["two"]["mae"] > 0.3


def test_one_folder_of_triples_is_a_set(packs: Path) -> None:
    (only,) = find_sets(packs / "one")

    assert only.name == "one"
    assert len(only.triples) == 3


def test_an_unknown_set_is_named(packs: Path) -> None:
    with pytest.raises(ValueError, match="no set named three"):
        find_sets(packs, {"three": "near_dark"})


def test_a_folder_that_holds_no_triples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no triples, nor do its subfolders"):
        find_sets(tmp_path)


def test_the_table_has_a_line_per_set(packs: Path, tmp_path: Path) -> None:
    report = evaluate_saliency(DepthRuntime(), find_sets(packs), (64, 64), tmp_path / "out")

    lines = table(report).splitlines()

    assert len(lines) == 5
    assert lines[2].startswith("| one | 3 | 0.9")
