from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from tests.training.scenes import write_triple
from training.__main__ import app
from training.data.rgbd_sets import find_sets
from training.data.triples import Triple, read_gt
from training.evaluate import (
    answers_in,
    answers_of,
    evaluate_saliency,
    evaluate_without,
    table,
    write_scores,
)
from training.predict import find_pairs, write_maps
from training.report import compare, latex, markdown, published, write_curves, write_images


class DepthRuntime:
    """Answers the depth it was given: right where near is bright, wrong where it is dark."""

    name, device = "depth", "cpu"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        assert rgb.shape[1:3] == aux.shape[1:3]
        return (aux[..., 0] > 0.7).astype(np.float32)

    def close(self) -> None: ...


ANSWER = answers_of(DepthRuntime(), (64, 64))


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    for pack in ("one", "two"):
        for index in range(3):
            write_triple(tmp_path / "packs" / pack, f"{index}", index)
    return tmp_path / "packs"


def test_scores_and_sheets_are_written_for_every_set(packs: Path, tmp_path: Path) -> None:
    report, _ = evaluate_saliency(ANSWER, find_sets(packs), tmp_path / "out")

    assert list(report) == ["one", "two", "all"]
    assert report["all"]["images"] == 6
    assert report["one"]["s_measure"] > 0.9
    write_scores(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == report
    with Image.open(tmp_path / "out" / "one.png") as sheet:
        assert sheet.width == 8 * 192


def test_polarity_is_per_set(packs: Path, tmp_path: Path) -> None:
    sets = find_sets(packs, {"two": "near_dark"})

    report, _ = evaluate_saliency(ANSWER, sets, tmp_path / "out")

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
    report, _ = evaluate_saliency(ANSWER, find_sets(packs), tmp_path / "out")

    lines = table(report).splitlines()

    assert len(lines) == 5
    assert lines[2].startswith("| one | 3 | 0.9")


def test_maps_that_a_model_wrote_score_as_the_model_does(packs: Path, tmp_path: Path) -> None:
    sets = find_sets(packs)
    report, images = evaluate_saliency(ANSWER, sets, tmp_path / "out")

    count = write_maps(DepthRuntime(), (64, 64), find_pairs(packs, {}), tmp_path / "maps")
    again, same_images = evaluate_saliency(answers_in(tmp_path / "maps", sets), sets, tmp_path)

    assert count == 6
    assert again == report
    assert [(each.set_name, each.name) for each in images] == [
        (pack, name) for pack in ("one", "two") for name in "012"
    ]
    for before, after in zip(images, same_images, strict=True):
        assert before.scores.results() == after.scores.results()


def test_maps_are_found_under_another_name_of_their_set_and_resized(
    packs: Path, tmp_path: Path
) -> None:
    (packs / "one").rename(tmp_path / "NJU2K")
    (found,) = find_sets(tmp_path / "NJU2K")
    (tmp_path / "maps" / "NJUD").mkdir(parents=True)
    for triple in found.triples:
        with Image.open(triple.gt) as image:
            image.resize((48, 36)).save(tmp_path / "maps" / "NJUD" / triple.gt.name)

    report, _ = evaluate_saliency(answers_in(tmp_path / "maps", [found]), [found], tmp_path / "out")

    assert report["NJU2K"]["s_measure"] > 0.95


def test_missing_maps_are_named(packs: Path, tmp_path: Path) -> None:
    sets = find_sets(packs)
    write_maps(DepthRuntime(), (64, 64), find_pairs(packs, {}), tmp_path / "maps")
    (tmp_path / "maps" / "two" / "1.png").unlink()

    with pytest.raises(ValueError, match="two: 1 of 3 maps are missing: 1"):
        answers_in(tmp_path / "maps", sets)
    with pytest.raises(ValueError, match="no folder, or several, for the maps of one"):
        answers_in(tmp_path / "maps" / "two", sets)


def test_maps_are_written_for_pairs_without_masks(packs: Path, tmp_path: Path) -> None:
    for path in (packs / "one" / "gt").iterdir():
        path.unlink()
    (packs / "one" / "gt").rmdir()

    with pytest.raises(ValueError, match="one has no masks to tell how depth is written"):
        find_pairs(packs, {})
    pairs = find_pairs(packs, {"one": "near_dark"})
    write_maps(DepthRuntime(), (64, 64), pairs, tmp_path / "maps")

    assert pairs["one"][1] == "near_dark"
    with Image.open(tmp_path / "maps" / "one" / "0.png") as image:
        assert (image.size, image.mode) == ((96, 72), "L")


def test_what_is_taken_away_costs_what_the_report_says(packs: Path) -> None:
    report = evaluate_without(DepthRuntime(), find_sets(packs), (64, 64))

    assert list(report) == [
        f"{name}, no {what}" for what in ("depth", "colour") for name in ("one", "two", "all")
    ]
    assert report["one, no depth"]["mae"] > 0.1  # an empty map
    assert report["one, no colour"]["s_measure"] > 0.9


def test_the_worst_pictures_come_first_in_their_sheet(tmp_path: Path) -> None:
    for index in range(25):
        write_triple(tmp_path / "pack", f"{index:02}", index)
    (found,) = find_sets(tmp_path / "pack")

    def mostly_right(_name: str, triple: Triple) -> NDArray[np.uint8]:
        gt = read_gt(triple.gt).astype(np.uint8) * 255
        return 255 - gt if triple.rgb.stem == "07" else gt

    evaluate_saliency(mostly_right, [found], tmp_path / "out")

    with Image.open(tmp_path / "out" / "pack_worst.png") as sheet:
        values = np.asarray(sheet)
    assert values.shape == (10 * 210, 8 * 192, 3)
    assert np.abs(values[18:210, 384:576].astype(int) - values[18:210, 576:768]).mean() > 200
    assert np.abs(values[18:210, 1152:1344].astype(int) - values[18:210, 1344:1536]).mean() == 0


def test_curves_and_scores_of_every_image_are_written(packs: Path, tmp_path: Path) -> None:
    report, images = evaluate_saliency(ANSWER, find_sets(packs), tmp_path)

    write_images(images, tmp_path / "images.csv")
    write_curves(images, tmp_path)

    lines = (tmp_path / "images.csv").read_text().splitlines()
    assert lines[0] == "set,image,s_measure,max_f,max_e,mae"
    mean = np.mean([float(line.split(",")[2]) for line in lines[1:4]])
    assert mean == pytest.approx(report["one"]["s_measure"], abs=1e-6)
    curve = np.loadtxt(tmp_path / "one_curves.csv", delimiter=",", skiprows=1)
    assert curve.shape == (256, 5)
    assert curve[:, 1].max() == pytest.approx(report["one"]["max_f"], abs=1e-6)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 800


def test_public_sets_stand_beside_published_numbers(packs: Path, tmp_path: Path) -> None:
    (packs / "one").rename(packs / "RGBD_test_STEREO")
    sets = find_sets(packs)
    report, _ = evaluate_saliency(ANSWER, sets, tmp_path)

    comparison = compare(report, sets, "mine", 4.27)

    assert comparison
    assert comparison.methods[-1] == "mine"
    assert comparison.cells["STERE", "mae", "MutualFormer"] == 0.038
    assert comparison.notes[0] == "STERE: 3 images here, 1000 or 797 in the other columns."
    text = markdown(comparison)
    assert "| STERE | S | .905 |" not in text  # no JL-DCF there, DCF first
    assert "| STERE | S | .908 | .905 | .908 |" in text
    assert "**.935**" in text
    assert "**.99" not in text  # three images are no record
    assert "| parameters (M) | | 47.85 |" in text
    assert "4.27 |" in text
    tex = latex(comparison)
    assert r"\multirow{4}{*}{STERE} & $S_m\uparrow$ & .908" in tex
    assert tex.count(r"\\") == 6
    assert compare(report, sets[1:], "mine") is None


def test_a_whole_set_that_beats_all_is_marked(packs: Path) -> None:
    (packs / "one").rename(packs / "SIP")
    (found, _) = find_sets(packs)
    scores = {"s_measure": 0.95, "max_f": 0.9, "max_e": 0.9, "mae": 0.0301, "images": 929}

    comparison = compare({"SIP": scores}, [found], "mine")

    assert comparison
    assert "**.950**" in markdown(comparison)
    assert "**.030**" in markdown(comparison)
    assert not any("images here" in note for note in comparison.notes)


def test_published_numbers_are_those_of_the_paper() -> None:
    rows = {(row.method, row.set): row for row in published()}

    ours = [rows["MutualFormer", title].scores for title in ("NJU2K", "LFSD")]

    assert ours[0] == {"s_measure": 0.922, "max_f": 0.923, "max_e": 0.954, "mae": 0.032}
    assert ours[1] == {"s_measure": 0.872, "max_f": 0.879, "max_e": 0.911, "mae": 0.062}
    assert "max_e" not in rows["CAVER-R50", "SIP"].scores
    assert len(rows) == len(published())


def test_the_commands_evaluate_and_predict(packs: Path, tmp_path: Path) -> None:
    maps, out = tmp_path / "maps", tmp_path / "out"
    write_maps(DepthRuntime(), (64, 64), find_pairs(packs, {}), maps)
    common = ["--data", str(packs), "--out", str(out)]

    good = CliRunner().invoke(app, ["evaluate", "saliency", "--maps", str(maps), *common])
    neither = CliRunner().invoke(app, ["evaluate", "saliency", *common])
    twice = ["--near-dark", "one", "--near-bright", "one"]
    both = CliRunner().invoke(app, ["evaluate", "saliency", "--maps", str(maps), *common, *twice])

    assert good.exit_code == 0, good.output
    assert "one: 3 triples, depth is near_bright: the object is brighter" in good.output
    assert "| all | 6 | 0.9" in good.output
    assert {path.name for path in out.iterdir()} == {
        *("scores.json", "images.csv", "curves.png", "one_curves.csv", "two_curves.csv"),
        *("one.png", "two.png", "one_worst.png", "two_worst.png"),
    }
    assert (neither.exit_code, both.exit_code) == (2, 2)
    assert "one is said to be both near_bright and near_dark" in both.stderr
