from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import disc, write_triple
from training.data.sample import Draw
from training.data.triples import HeldOutTriples, TrainTriples, Triple, find_triples, read_depth


@pytest.mark.parametrize(
    "names", [("RGB", "depth", "GT"), ("images", "depths", "masks"), ("Img", "Dep", "labels")]
)
def test_the_usual_folder_names_are_known(tmp_path: Path, names: tuple[str, str, str]) -> None:
    write_triple(tmp_path, "a", 0, names)
    write_triple(tmp_path, "b", 1, names)

    triples = find_triples(tmp_path)

    assert [triple.rgb.stem for triple in triples] == ["a", "b"]


def test_a_missing_partner_is_named(triples_root: Path) -> None:
    (triples_root / "depth" / "003.png").unlink()

    with pytest.raises(ValueError, match="1 without depth: 003"):
        find_triples(triples_root)


def test_a_missing_folder_is_named(triples_root: Path) -> None:
    (triples_root / "gt").rename(triples_root / "something")

    with pytest.raises(ValueError, match="expected one folder for gt"):
        find_triples(triples_root)


def test_a_colour_picture_is_not_depth(tmp_path: Path) -> None:
    Image.fromarray(disc(0, (32, 32))[0]).save(tmp_path / "colour.png")

    with pytest.raises(ValueError, match="colour picture"):
        read_depth(tmp_path / "colour.png")


def test_sixteen_bits_of_depth_survive_reading(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 1000
    Image.fromarray(values).save(tmp_path / "depth.png")

    np.testing.assert_array_equal(read_depth(tmp_path / "depth.png"), values)


def test_near_is_bright_under_both_polarities(triples_root: Path) -> None:
    bright = HeldOutTriples(find_triples(triples_root), size=(64, 64))[0]
    dark = HeldOutTriples(find_triples(triples_root, "near_dark"), size=(64, 64))[0]
    mask = bright.gt > 0.5

    assert bright.aux[mask].mean() > bright.aux[~mask].mean()
    assert dark.aux[mask].mean() < dark.aux[~mask].mean()


def test_an_epoch_visits_every_triple_once(triples_root: Path) -> None:
    triples = find_triples(triples_root)
    dataset = TrainTriples(triples, Draw((32,), batch_size=2, seed=0))
    drawn: list[str] = []
    original = dataset.items
    dataset.items = _Recorder(original, drawn)

    for index in range(len(original) * 2):
        dataset[index]

    assert sorted(drawn[: len(original)]) == sorted(drawn[len(original) :])
    assert len(set(drawn[: len(original)])) == len(original)


class _Recorder(list[Triple]):
    def __init__(self, values: list[Triple], drawn: list[str]) -> None:
        super().__init__(values)
        self.drawn = drawn

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        self.drawn.append(value.rgb.stem)
        return value


def test_geometry_is_shared_by_colour_depth_and_mask(triples_root: Path) -> None:
    dataset = TrainTriples(find_triples(triples_root), Draw((96,), batch_size=1, seed=1))

    for index in range(12):
        sample = dataset[index]
        near = sample.aux[..., 0] > 0.75
        overlap = (near & (sample.gt > 0.5)).sum() / (near | (sample.gt > 0.5)).sum()
        assert overlap > 0.9


def test_sizes_that_differ_are_named(triples_root: Path) -> None:
    Image.new("L", (8, 8)).save(triples_root / "depth" / "000.png")
    dataset = TrainTriples(find_triples(triples_root)[:1], Draw((32,), batch_size=1, seed=0))

    with pytest.raises(ValueError, match=r"000: rgb \(72, 96\), depth \(8, 8\)"):
        dataset[0]
