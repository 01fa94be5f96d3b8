from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from export.judge import read_pairs
from model.preprocessing import prepare_depth
from tests.training.crops import write_rgbn300
from tests.training.scenes import write_triple
from training.__main__ import app
from training.data.triples import read_depth


def write(*arguments: str | int | Path) -> Result:
    return CliRunner().invoke(app, ["pairs", *map(str, arguments)])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Sets `one` and `two` of two triples each, and three pairs without masks."""
    for name in ("one", "two"):
        for index in range(2):
            write_triple(tmp_path / "sets" / name, f"{index}", index)
    for index, stem in enumerate(("a", "b_dark", "c_mm")):
        write_triple(tmp_path / "more", stem, index, ("rgb", "depth", "other"))
    return tmp_path / "sets", tmp_path / "more"


def test_triples_come_first_and_every_convention_is_kept(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    sets, more = folders
    out = tmp_path / "pairs.npz"

    result = write(
        "saliency", "--data", sets, "--near-dark", "two", "--unlabelled", more,
        "--near-dark", "*_dark", "--metric", "*_mm", "--size", 48, 64, "--out", out,
    )  # fmt: skip

    assert result.output == f"7 pairs in {out}\n"
    pairs = read_pairs(out, (48, 64))
    assert pairs.gt is not None
    assert (len(pairs), len(pairs.gt)) == (7, 4)
    assert 0.1 < pairs.gt.mean() < 0.3
    for row, (path, convention) in enumerate(
        [(sets / name / "depth" / f"{i}.png", kind)
         for name, kind in (("one", "near_bright"), ("two", "near_dark")) for i in range(2)]
        + [(more / "depth" / f"{stem}.png", kind) for stem, kind in
           (("a", "near_bright"), ("b_dark", "near_dark"), ("c_mm", "metric"))]
    ):  # fmt: skip
        expected = prepare_depth(read_depth(path), convention, (48, 64))  # type: ignore[arg-type]
        np.testing.assert_array_equal(pairs.aux[row], expected)


def test_crops_come_once_with_who_is_on_them(tmp_path: Path) -> None:
    write_rgbn300(tmp_path / "set")
    out = tmp_path / "pairs.npz"

    result = write(
        "reid", "--data", tmp_path / "set", "--layout", "rgbn300", "--size", 64, 32, "--out", out
    )

    assert result.exit_code == 0, result.output
    pairs = read_pairs(out, (64, 32))
    assert pairs.pid is not None
    assert pairs.camid is not None
    assert set(zip(pairs.pid.tolist(), pairs.camid.tolist(), strict=True)) == {
        (pid, camid) for pid in range(5) for camid in (1, 2)
    }


def test_scenes_keep_their_partners(tmp_path: Path) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "pairs.npz"
    folder.mkdir()
    for level in (40, 200):
        Image.new("RGB", (96, 64), (level, 0, 0)).save(folder / f"{level:03}_rgb.jpg")
        Image.new("L", (96, 64), level).save(folder / f"{level:03}_nir.jpg")

    result = write("scenes", "--data", folder, "--size", 64, 32, "--out", out)

    assert result.output == f"2 pairs in {out}\n"
    pairs = read_pairs(out, (64, 32))
    assert pairs.pid is None
    np.testing.assert_allclose(
        pairs.aux[..., 0].mean(axis=(1, 2)), [40 / 255, 200 / 255], atol=0.01
    )
    np.testing.assert_allclose(pairs.rgb[..., 0].mean(axis=(1, 2)), [40, 200], atol=3)
    (folder / "040_nir.jpg").unlink()
    result = write("scenes", "--data", folder, "--size", 64, 32, "--out", out)
    assert result.exit_code == 2
    assert "040_nir.jpg" in result.output.replace("\n", "")


@pytest.mark.parametrize("task", ["saliency", "reid", "scenes"])
def test_a_folder_that_is_not_there_is_named(task: str, tmp_path: Path) -> None:
    more = ["--layout", "rgbn300"] if task == "reid" else []

    result = write(
        task, "--data", tmp_path / "none", *more, "--size", 64, 32, "--out", tmp_path / "pairs.npz"
    )

    assert result.exit_code == 2
    assert "none" in result.output
