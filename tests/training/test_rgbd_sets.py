from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import disc, write_triple
from training.data.polarity import brighter_object, count_votes, detect_polarity
from training.data.rgbd_sets import find_sets, keep_named
from training.data.triples import find_triples
from training.recipe import DataRecipe
from training.saliency import training_triples


def write_pack(root: Path, count: int, *, dark: bool = False, deep: bool = False) -> Path:
    for index in range(count):
        write_triple(root, f"{index:03}", index)
        path = root / "depth" / f"{index:03}.png"
        values = disc(index, (72, 96))[1]
        if dark:
            values = 255 - values
        if deep:
            values = values.astype(np.uint16) * 10
            values[:5] = 0
        Image.fromarray(values).save(path)
    return root


@pytest.mark.parametrize(
    ("dark", "deep", "convention"),
    [
        (False, False, "near_bright"),
        (True, False, "near_dark"),
        (True, True, "metric"),
        (False, True, "near_bright"),
    ],
)
def test_how_depth_is_written_is_told_from_where_objects_stand(
    tmp_path: Path, dark: bool, deep: bool, convention: str
) -> None:
    write_pack(tmp_path / "one" / "pack", 4, dark=dark, deep=deep)

    (found,) = find_sets(tmp_path)

    assert {triple.convention for triple in found.triples} == {convention}
    assert found.evidence.startswith(f"{convention}: the object is brighter")
    assert (found.name, found.title) == ("one/pack", "one/pack")


def test_the_user_overrules_what_was_found(tmp_path: Path) -> None:
    write_pack(tmp_path / "des", 2)

    (found,) = find_sets(tmp_path, {"des": "near_dark"})

    assert [triple.convention for triple in found.triples] == ["near_dark"] * 2
    assert (found.title, found.evidence) == ("RGBD135", "as given")


def test_depth_that_says_nothing_is_not_guessed(tmp_path: Path) -> None:
    write_pack(tmp_path / "flat", 2)
    for path in (tmp_path / "flat" / "depth").iterdir():
        Image.new("L", (96, 72), 9).save(path)

    with pytest.raises(ValueError, match="flat: say how depth is written, it is undecided"):
        find_sets(tmp_path)


def test_a_set_that_disagrees_with_itself_is_mixed() -> None:
    few = count_votes([0.5, 0.5, -0.5], deep=False, holes=False)
    many = count_votes([0.5] * 10 + [-0.5] * 5 + [0.05], deep=False, holes=False)
    odd = count_votes([0.5] * 10 + [-0.5] * 2, deep=False, holes=False)

    assert (few.convention, many.convention, odd.convention) == ("near_bright", None, "near_bright")
    assert many.mixed
    assert not few.mixed
    assert (many.near_bright, many.near_dark, many.unclear) == (10, 5, 1)


def test_evidence_is_a_difference_of_ranks() -> None:
    gt = np.zeros((64, 64), bool)
    gt[20:44, 20:44] = True
    depth = np.where(gt, 200, 10).astype(np.float32)
    depth[0, 0] = np.nan

    assert brighter_object(depth, gt) > 0.05
    assert brighter_object(depth**3, gt) == pytest.approx(brighter_object(depth, gt), abs=0.02)
    assert brighter_object(-depth, gt) < -0.05
    assert brighter_object(depth, np.zeros_like(gt)) == 0
    assert brighter_object(np.full((64, 64), 7.0), gt) == 0


def test_a_large_set_is_sampled(tmp_path: Path) -> None:
    triples = find_triples(write_pack(tmp_path, 6))

    votes = detect_polarity(triples, most=3)

    assert votes.near_bright == 3


@pytest.mark.parametrize(
    "lines",
    [
        ["001", "", "# a remark", "003"],
        ["001.jpg 001.png", "003.jpg 003.png"],
        ["a/rgb/001.jpg", "a/003"],
    ],
)
def test_a_list_of_names_chooses_triples(tmp_path: Path, lines: list[str]) -> None:
    triples = find_triples(write_pack(tmp_path / "a", 5))
    (tmp_path / "names.txt").write_text("\n".join(lines))

    kept = keep_named(triples, tmp_path / "names.txt")

    assert [triple.rgb.stem for triple in kept] == ["001", "003"]


def test_names_that_fit_none_or_several_are_told(tmp_path: Path) -> None:
    triples = [t for pack in "ab" for t in find_triples(write_pack(tmp_path / pack, 2))]
    (tmp_path / "none").write_text("a/009\na/001\nb/rgb/000.jpg\nc/001\n")
    (tmp_path / "several").write_text("a/000\n001\n")

    with pytest.raises(ValueError, match="2 lines name no triple: a/009, c/001"):
        keep_named(triples, tmp_path / "none")
    with pytest.raises(ValueError, match="1 lines name several: 001"):
        keep_named(triples, tmp_path / "several")


def test_sets_of_both_polarities_are_trained_on_together(tmp_path: Path) -> None:
    write_pack(tmp_path / "nju2k", 30)
    write_pack(tmp_path / "more" / "nlpr", 3, dark=True)
    data = DataRecipe("triples", (tmp_path / "nju2k", tmp_path / "more"), expected=33)

    train, held_out = training_triples(data)

    conventions = {t.rgb.parent.parent.name: t.convention for t in train}
    assert conventions == {"nju2k": "near_bright", "nlpr": "near_dark"}
    assert len(train) + len(held_out) == len({*train, *held_out}) == 33
    assert held_out
    given, _ = training_triples(replace(data, depth_convention="metric"))
    assert {triple.convention for triple in given} == {"metric"}


def test_another_number_of_triples_than_the_recipe_expects_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path, 3)

    with pytest.raises(ValueError, match="expected 2185 triples to train on, found 3"):
        training_triples(DataRecipe("triples", (tmp_path,), expected=2185))


def test_two_triples_are_one_to_train_on_and_one_to_validate_on(tmp_path: Path) -> None:
    write_pack(tmp_path, 2)

    train, held_out = training_triples(DataRecipe("triples", (tmp_path,)))

    assert [len(train), len(held_out)] == [1, 1]
    assert train[0] != held_out[0]
