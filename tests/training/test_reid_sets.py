from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.crops import TEST, WRITERS, pair, write_folders, write_rgbn300, write_rgbnt201
from training.data.nir_simulator import simulate_nir
from training.data.reid_sets import (
    Layout,
    counts,
    find_train,
    find_trial,
    read_pair,
    split_identities,
)

LAYOUTS: tuple[Layout, ...] = tuple(WRITERS)  # type: ignore[arg-type] # its keys


@pytest.fixture(params=LAYOUTS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Layout]:
    WRITERS[request.param](tmp_path)
    return tmp_path, request.param


def test_every_layout_counts_what_was_written(written: tuple[Path, Layout]) -> None:
    root, layout = written
    train = find_train(root, layout)
    trial = find_trial(root, layout)

    each = 2 if layout == "vehicles" else 4
    assert counts(train) == {"identities": 20, "images": 20 * each, "cameras": 2}
    assert counts(trial.query)["identities"] == counts(trial.gallery)["identities"] == len(TEST)
    assert not {crop.pid for crop in train} & {crop.pid for crop in trial.query}
    assert trial.rule == ("scene" if layout == "msvr310" else "camera")
    assert trial.simulated == (layout == "vehicles")


def test_every_layout_pairs_colour_with_its_own_near_infrared(
    written: tuple[Path, Layout],
) -> None:
    root, layout = written

    for crop in find_train(root, layout)[::7]:
        rgb, nir = read_pair(crop)
        number = int(crop.pid.removeprefix("car_"))
        expected_rgb, expected_nir = (
            np.asarray(Image.fromarray(x).resize(rgb.shape[1::-1])) for x in pair(number, 1, 0)
        )
        eight_bit = nir / 257 if nir.dtype == np.uint16 else nir.astype(float)
        assert np.abs(rgb.astype(float) - expected_rgb).mean() < 20
        if layout != "vehicles":
            assert np.abs(eight_bit - expected_nir).mean() < 20


def test_near_infrared_is_simulated_from_the_clean_photo(tmp_path: Path) -> None:
    WRITERS["vehicles"](tmp_path)
    crop = find_train(tmp_path, "vehicles")[0]

    rgb, nir = read_pair(crop)

    np.testing.assert_array_equal(nir, simulate_nir(rgb))


def test_query_and_gallery_are_one_set_in_rgbnt201(tmp_path: Path) -> None:
    write_rgbnt201(tmp_path)

    trial = find_trial(tmp_path, "rgbnt201")

    assert trial.query is trial.gallery


def test_two_folders_alone_stand_for_every_part(tmp_path: Path) -> None:
    write_folders(tmp_path)

    trial = find_trial(tmp_path / "query", "folders")

    assert trial.query is trial.gallery
    assert trial.query == find_train(tmp_path / "query", "folders")


def test_detections_of_no_one_are_left_out(tmp_path: Path) -> None:
    write_rgbn300(tmp_path)
    folder = tmp_path / "rgbir" / "bounding_box_test"
    (folder / "0101_c1_000.jpg").rename(folder / "-1_c1_000.jpg")

    assert len(find_trial(tmp_path, "rgbn300").gallery) == 4 * len(TEST) - 1


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def rename(name: str, to: str) -> Callable[[Path], object]:
    return lambda root: (root / name).rename((root / name).with_name(to))


@pytest.mark.parametrize(
    ("layout", "spoil", "message"),
    [
        ("rgbn300", rename("rgbir/bounding_box_train", "train"), "bounding_box_train is not a"),
        (
            "rgbnt100",
            rename("rgbir/bounding_box_train/0001_c1_000.jpg", "one.jpg"),
            r"one\.jpg: the name does not match",
        ),
        (
            "rgbnt201",
            remove("train_171/NI/000001_cam1_0_00.jpg"),
            "NI: 1 pictures are missing: 000001_cam1_0_00",
        ),
        ("rgbnt201", rename("train_171/NI", "NIR"), "NI is not a folder"),
        (
            "msvr310",
            remove("bounding_box_train/0003/vis/0003_s001_v1_000.jpg"),
            "vis: 1 pictures are missing: 0003_s001_v1_000",
        ),
        ("folders", remove("train/nir/7_c2_1.png"), "nir: 1 pictures are missing: 7_c2_1"),
        ("vehicles", rename("train/car_0001_cam1.jpg", "car_0001.jpg"), "car_0001.jpg: the name"),
    ],
)
def test_what_does_not_fit_a_layout_is_named(
    layout: Layout, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    WRITERS[layout](tmp_path)
    spoil(tmp_path)

    with pytest.raises(ValueError, match=message):
        find_train(tmp_path, layout)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    write_rgbnt201(tmp_path)

    with pytest.raises(ValueError, match="bounding_box_train is not a folder"):
        find_train(tmp_path, "rgbn300")
    with pytest.raises(ValueError, match="unknown layout 'market'"):
        find_train(tmp_path, "market")  # type: ignore[arg-type]


def test_a_file_without_panels_is_named(tmp_path: Path) -> None:
    write_rgbn300(tmp_path)
    crop = find_train(tmp_path, "rgbn300")[0]
    Image.new("RGB", (256, 128)).save(crop.rgb.path)

    with pytest.raises(
        ValueError, match="two or three panels of 256 x 128 side by side, got 256 x 128"
    ):
        read_pair(crop)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path)
    crop = find_train(tmp_path, "folders")[0]
    crop.rgb.path.write_bytes(b"no picture")

    with pytest.raises(ValueError, match=crop.rgb.path.name):
        read_pair(crop)


def test_identities_are_split_whole_and_always_alike(tmp_path: Path) -> None:
    write_folders(tmp_path)
    crops = find_train(tmp_path, "folders")

    train, val = split_identities(crops, 0.2)

    assert len({crop.pid for crop in val}) == 4
    assert not {crop.pid for crop in train} & {crop.pid for crop in val}
    assert len(train) + len(val) == len(crops)
    assert split_identities(crops[::-1], 0.2)[1] == val[::-1]


def test_too_few_identities_to_split_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path)
    few = [crop for crop in find_train(tmp_path, "folders") if crop.pid in ("1", "2", "3")]

    with pytest.raises(ValueError, match="3 identities are too few"):
        split_identities(few, 0.1)
