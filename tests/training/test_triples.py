from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import disc, write_triple
from training.data import decoded
from training.data.sample import Draw
from training.data.triple_samples import HeldOutTriples, TrainTriples
from training.data.triples import Triple, find_triples, read_depth


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


def assert_same(one: TrainTriples, other: TrainTriples) -> None:
    for index in range(len(one.items)):
        for first, second in zip(one[index], other[index], strict=True):
            np.testing.assert_array_equal(first, second)


def test_kept_triples_are_the_decoded_ones_and_pictures_are_read_once(
    triples_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.arange(72 * 96, dtype=np.uint16).reshape(72, 96)).save(
        triples_root / "depth" / "004.png"
    )
    triples, draw = find_triples(triples_root), Draw((32, 64), batch_size=2, seed=0)
    plain = TrainTriples(triples, draw)
    kept = TrainTriples(triples, draw, tmp_path / "cache")
    assert_same(plain, kept)
    assert len(list((tmp_path / "cache").iterdir())) == 6

    with monkeypatch.context() as patched:
        patched.setattr(decoded, "decode", None)
        assert_same(plain, kept)


@pytest.mark.parametrize("what", ["picture", "convention"])
def test_what_changed_is_decoded_anew(triples_root: Path, tmp_path: Path, what: str) -> None:
    triple = find_triples(triples_root)[0]
    before = decoded.decode_once(triple, tmp_path / "cache")

    if what == "picture":
        Image.fromarray(disc(5, (40, 50))[1]).save(triple.depth)
        Image.fromarray(disc(5, (40, 50))[0]).save(triple.rgb)
        Image.fromarray(disc(5, (40, 50))[2]).save(triple.gt)
    else:
        triple = find_triples(triples_root, "near_dark")[0]
    after = decoded.decode_once(triple, tmp_path / "cache")

    for values, expected in zip(after, decoded.decode(triple), strict=True):
        np.testing.assert_array_equal(values, expected)
    assert not np.array_equal(after.near, before.near)
