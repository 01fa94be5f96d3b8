"""Copies of a good data set, each spoilt in one way; the message must say in which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime
from tests.training.crops import WRITERS
from tests.training.scenes import write_triple
from tests.training.test_reid import TINY
from training.__main__ import app
from training.data.reid_sets import find_trial
from training.data.rgbd_sets import find_sets, known_set
from training.data.sample import Draw
from training.data.triple_samples import TrainTriples
from training.doctor import examine_saliency
from training.doctor_reid import examine_reid, guess_layout
from training.evaluate import predict
from training.evaluate_reid import evaluate_reid
from training.recipe import DataRecipe, ReIDDataRecipe, ReIDRecipe
from training.reid import ReIDTask
from training.saliency import training_triples


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """Two sets of twelve triples, near bright."""
    for offset, pack in enumerate(("NJU2K", "mine")):
        for index in range(12):
            write_triple(tmp_path / "packs" / pack, f"{index:03}", 100 * offset + index)
    return tmp_path / "packs"


def change(path: Path, to: Callable[[np.ndarray], np.ndarray]) -> None:
    with Image.open(path) as image:
        values = np.asarray(image)
    Image.fromarray(to(values)).save(path)


def test_a_good_set_is_good(packs: Path) -> None:
    report = examine_saliency(packs)

    assert report.good
    assert report.rows[1:] == [
        ("NJU2K", "NJU2K", "12", "500 or 485 or 1485 or 1400 or 1985 or 1885", "near_bright"),
        ("mine", "-", "12", "-", "near_bright"),
    ]
    levels = [finding.level for finding in report.findings]
    assert levels.count("warning") == 1  # the count of NJU2K


def missing_folder(pack: Path) -> None:
    shutil.rmtree(pack / "gt")


def missing_masks(pack: Path) -> None:
    (pack / "gt" / "003.png").unlink()
    (pack / "gt" / "007.png").unlink()


def two_files_of_a_name(pack: Path) -> None:
    shutil.copy(pack / "rgb" / "003.jpg", pack / "rgb" / "003.png")


def swapped_colour_and_depth(pack: Path) -> None:
    (pack / "rgb").rename(pack / "x")
    (pack / "depth").rename(pack / "rgb")
    (pack / "x").rename(pack / "depth")


def swapped_depth_and_masks(pack: Path) -> None:
    (pack / "gt").rename(pack / "x")
    (pack / "depth").rename(pack / "gt")
    (pack / "x").rename(pack / "depth")


def different_sizes(pack: Path) -> None:
    change(pack / "depth" / "004.png", lambda values: values[:-1])


def masks_of_zero_and_one(pack: Path) -> None:
    for path in (pack / "gt").iterdir():
        change(path, lambda values: values // 255)


def grey_masks(pack: Path) -> None:
    change(pack / "gt" / "002.png", lambda values: values // 2 + 100)


def empty_mask(pack: Path) -> None:
    change(pack / "gt" / "002.png", lambda values: values * 0)


def inverted_masks(pack: Path) -> None:
    for path in (pack / "gt").iterdir():
        change(path, lambda values: 255 - values)


def mixed_polarity(pack: Path) -> None:
    for path in sorted((pack / "depth").iterdir())[:5]:
        change(path, lambda values: 255 - values)


def truncated(pack: Path) -> None:
    path = pack / "rgb" / "005.jpg"
    path.write_bytes(path.read_bytes()[:600])


def constant_depth(pack: Path) -> None:
    change(pack / "depth" / "001.png", lambda values: values * 0 + 7)


def a_video_among_the_photos(pack: Path) -> None:
    (pack / "rgb" / "005.avi").touch()


def pictures_beside_the_folders(pack: Path) -> None:
    shutil.copytree(pack / "rgb", pack / "edges")


def a_photo_of_another_set(pack: Path) -> None:
    shutil.copy(pack.parent / "NJU2K" / "rgb" / "001.jpg", pack / "rgb" / "001.jpg")


@pytest.mark.parametrize(
    ("spoil", "level", "message"),
    [
        (missing_folder, "error", "expected one folder for gt (gt, gts, mask"),
        (missing_masks, "error", "2 without gt: 003, 007"),
        (two_files_of_a_name, "error", "003.jpg and 003.png have one name"),
        (swapped_colour_and_depth, "error", "the folders of colour and depth look swapped"),
        (swapped_depth_and_masks, "error", "its folder and that of the masks look swapped"),
        (different_sizes, "error", "colour, depth and mask differ in size in 1 of 12: 004"),
        (masks_of_zero_and_one, "error", "no value above 128 (written with 0 and 1?) in 12 of 12"),
        (grey_masks, "warning", "only above 128 counts in 1 of 12: 002"),
        (empty_mask, "warning", "the mask is empty in 1 of 12: 002"),
        (inverted_masks, "warning", "covers the border (inverted?) in 12 of 12"),
        (mixed_polarity, "error", "mixed: the object is brighter than what is around it in 7"),
        (mixed_polarity, "error", "the fewer are 000, 001, 002, 003, 004; say how"),
        (truncated, "error", "rgb cannot be read in 1 of 12: 005"),
        (constant_depth, "warning", "depth is constant in 1 of 12: 001"),
        (a_video_among_the_photos, "warning", "1 entries of rgb are no pictures: 005.avi"),
        (pictures_beside_the_folders, "warning", "12 pictures are in no set, in mine/edges"),
        (a_photo_of_another_set, "warning", "1 photos occur more than once: 001"),
    ],
)
def test_what_is_wrong_with_triples_is_said(
    packs: Path, spoil: Callable[[Path], None], level: str, message: str
) -> None:
    spoil(packs / "mine")

    report = examine_saliency(packs)

    assert report.good == (level != "error"), report
    assert any(f.level == level and message in f.text for f in report.findings), report
    assert len(report.rows) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_folder, r"mine: expected one folder for gt"),
        (missing_masks, r"mine: 2 without gt: 003, 007"),
        (two_files_of_a_name, r"003.jpg and 003.png have one name"),
        (swapped_colour_and_depth, r"000.jpg is a colour picture, expected depth"),
        (swapped_depth_and_masks, r"mine: depth is black and white; .* look swapped"),
        (different_sizes, r"mine: colour, depth and mask differ in size in 1 of 12: 004"),
        (masks_of_zero_and_one, r"000.png: no value is above 128, the largest is 1"),
        (mixed_polarity, r"mine: say how depth is written, it is mixed: the object"),
        (truncated, r"005.jpg cannot be read: Truncated File Read"),
    ],
)
def test_neither_training_nor_evaluation_starts_on_what_is_wrong(
    packs: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(packs / "mine")

    with pytest.raises(ValueError, match=message):
        training_triples(DataRecipe("triples", (packs,)))
    with pytest.raises(ValueError, match=message):
        find_sets(packs)


def test_a_truncated_photo_is_named_where_it_is_met(packs: Path) -> None:
    path = packs / "mine" / "rgb" / "005.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (found,) = find_sets(packs / "mine")
    samples = TrainTriples(found.triples[5:6], Draw((32,), batch_size=1, seed=0))

    with pytest.raises(ValueError, match=r"005.jpg cannot be read: image file is truncated"):
        samples[0]
    with pytest.raises(ValueError, match=r"005.jpg cannot be read: image file is truncated"):
        predict(EchoRuntime(), found.triples[5], "near_bright", (32, 32))


def test_a_test_photo_among_the_training_photos_is_an_error(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for index in range(3):
            write_triple(tmp_path / part, f"{part}{index}", index if part == "train" else index + 2)

    report = examine_saliency(tmp_path)

    (found,) = (finding for finding in report.findings if finding.level == "error")
    assert found.where == "test and train"
    assert found.text == "1 photos occur more than once: test0"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("NJU2K_Test", "NJU2K"), ("RGBD_for_test/STERE", "STERE"), ("njud/train_data", "NJU2K"),
        ("DES", "RGBD135"), ("DUTLF-Depth", "DUT-RGBD"), ("STERE-797", "STERE"),
        ("RGBD_for_train", None), ("RGBD_test_STEREO", "STERE"), ("designs", None),
    ],
)  # fmt: skip
def test_public_sets_are_known_by_their_folders(name: str, title: str | None) -> None:
    known = known_set(name)

    assert (known.title if known else None) == title


def test_the_command_says_errors_by_its_exit_status(packs: Path) -> None:
    good = CliRunner().invoke(app, ["doctor", "saliency", str(packs)])
    mixed_polarity(packs / "mine")
    bad = CliRunner().invoke(app, ["doctor", "saliency", str(packs)])
    none = CliRunner().invoke(app, ["doctor", "saliency", str(packs / "mine" / "rgb")])

    assert (good.exit_code, bad.exit_code, none.exit_code) == (0, 1, 2)
    assert "| mine | - | 12 | - | mixed |" in bad.output
    assert "not fit to train or judge on: 1 errors" in bad.output
    assert "holds no sets" in none.stderr


@pytest.mark.parametrize("layout", list(WRITERS))
def test_every_layout_is_recognised_and_found_good(layout: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path / "data")

    result = CliRunner().invoke(app, ["doctor", "reid", str(tmp_path / "data")])

    guessed = "rgbnt100" if layout == "rgbn300" else layout  # of 25 identities
    assert f"layout: {guessed}" in result.output
    assert "| train | 20 | " in result.output
    assert result.exit_code == 0, result.output


def test_a_folder_that_fits_no_layout_says_what_each_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no layout fits\nrgbn300: .*bounding_box_train is not"):
        guess_layout(tmp_path)


def swapped_modalities(root: Path) -> None:
    for part in ("train", "query", "gallery"):
        (root / part / "rgb").rename(root / part / "x")
        (root / part / "nir").rename(root / part / "rgb")
        (root / part / "x").rename(root / part / "nir")
        for path in (root / part / "rgb").iterdir():
            with Image.open(path) as image:
                grey = (np.asarray(image) // 257).astype(np.uint8)
            Image.fromarray(grey).save(path)


def known_identities(root: Path) -> None:
    for name in ("rgb", "nir"):
        for path in (root / "train" / name).glob("7_c*"):
            shutil.copy(path, root / "gallery" / name)


def one_camera(root: Path) -> None:
    for name in ("rgb", "nir"):
        for path in (root / "gallery" / name).glob("*_c2_*"):
            path.unlink()
        for path in (root / "query" / name).glob("*_c2_*"):
            path.unlink()


def half_the_size(root: Path) -> None:
    for path in (root / "query" / "nir").glob("101_c1_0*"):
        with Image.open(path) as image:
            values = np.asarray(image)[::2, ::2]
        Image.fromarray(np.ascontiguousarray(values)).save(path)


def truncated_crop(root: Path) -> None:
    path = next((root / "train" / "rgb").iterdir())
    path.write_bytes(path.read_bytes()[:200])


def other_pictures(root: Path) -> None:
    shutil.copytree(root / "query" / "rgb", root / "thermal")


@pytest.mark.parametrize(
    ("spoil", "level", "message"),
    [
        (swapped_modalities, "error", "near-infrared has colours in 80 of 80: the two look"),
        (known_identities, "error", "1 identities are trained on and searched for: 7"),
        (one_camera, "error", "10 of 10 have nothing to find in another camera and will be"),
        (half_the_size, "warning", "differ in size in 1 of 20"),
        (truncated_crop, "error", "1 of 80: cannot read"),
        (other_pictures, "note", "20 pictures are not used, in thermal"),
    ],
)
def test_what_is_wrong_with_crops_is_said(
    tmp_path: Path, spoil: Callable[[Path], None], level: str, message: str
) -> None:
    WRITERS["folders"](tmp_path)
    spoil(tmp_path)

    report = examine_reid(tmp_path, "folders")

    assert report.good == (level != "error"), report
    assert any(f.level == level and message in f.text for f in report.findings), report


def test_neither_training_nor_evaluation_starts_on_swapped_modalities(tmp_path: Path) -> None:
    WRITERS["folders"](tmp_path / "data")
    recipe = ReIDRecipe(data=ReIDDataRecipe("folders", (tmp_path / "data",)), config=TINY)
    ReIDTask(recipe)
    swapped_modalities(tmp_path / "data")
    trial = find_trial(tmp_path / "data", "folders")

    with pytest.raises(ValueError, match=r"train/rgb: .* the two look swapped"):
        ReIDTask(recipe)
    with pytest.raises(ValueError, match=r"query/rgb: .* the two look swapped"):
        evaluate_reid(EchoEmbeddingRuntime(), trial, "data", (32, 32), tmp_path / "out")


def test_identities_are_compared_with_what_the_paper_says(tmp_path: Path) -> None:
    WRITERS["rgbn300"](tmp_path)

    texts = [finding.text for finding in examine_reid(tmp_path, "rgbn300").findings]

    assert "25 identities, but the set's paper says 300" in texts
    assert "100 pairs to train on and to search in, but its authors say 50125" in texts
