"""`predict` over many pairs of files: which make pairs, resuming, stopping, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image
from typer.testing import CliRunner, Result

from app.__main__ import cli
from app.commands.batch import Unwritable, write_whole
from app.commands.pairs import GREY_SUFFIXES, Matched, NoPairs, match
from tests.app.tiny import crops, embedded, encoded, noise, ramp


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def matched(rgb: Path | str, aux: Path | str, out: Path) -> Matched:
    return match(str(rgb), str(aux), "depth", GREY_SUFFIXES, out, ".png")


def names(found: Matched, root: Path) -> list[tuple[str, str, str]]:
    return [
        (
            str(pair.rgb.relative_to(root)),
            str(pair.pictures[1].relative_to(root)),
            str(pair.out.relative_to(root)),
        )
        for pair in found.pairs
    ]


def test_folders_match_by_stem_to_the_bottom(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/1.jpg", "rgb/a/1.JPG", "rgb/2.jpg", "rgb/notes.txt", "rgb/.hidden.jpg")
    touch(tmp_path, "depth/1.png", "depth/a/1.png", "depth/3.png")

    found = matched(tmp_path / "rgb", tmp_path / "depth", tmp_path / "out")

    assert names(found, tmp_path) == [
        ("rgb/1.jpg", "depth/1.png", "out/1.png"),
        ("rgb/a/1.JPG", "depth/a/1.png", "out/a/1.png"),
    ]
    assert found.alone == [tmp_path / "rgb/2.jpg", tmp_path / "depth/3.png"]


def test_patterns_match_names_that_carry_their_role(tmp_path: Path) -> None:
    touch(tmp_path, "in/vase_rgb.jpg", "in/vase_depth.png", "in/cone_rgb.jpg", "in/cone-depth.png")

    found = matched(tmp_path / "in/*_rgb.jpg", tmp_path / "in/*depth.png", tmp_path / "out")

    assert names(found, tmp_path) == [
        ("in/cone_rgb.jpg", "in/cone-depth.png", "out/cone.png"),
        ("in/vase_rgb.jpg", "in/vase_depth.png", "out/vase.png"),
    ]


def test_patterns_match_folders_that_carry_their_role(tmp_path: Path) -> None:
    touch(tmp_path, "a/rgb/1.jpg", "b/rgb/1.jpg", "a/depth/1.png", "b/depth/1.png")

    found = matched(tmp_path / "*/rgb/*", tmp_path / "*/depth/*", tmp_path / "out")

    assert [out for _, _, out in names(found, tmp_path)] == ["out/a/1.png", "out/b/1.png"]


def test_a_name_with_brackets_is_first_of_all_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "photo [1].jpg", "other.png")

    found = matched(tmp_path / "photo [1].jpg", tmp_path / "other.png", tmp_path / "out")

    assert names(found, tmp_path) == [("photo [1].jpg", "other.png", "out/photo [1].png")]


def test_answers_inside_the_pictures_folder_are_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "rgb/1.png", "depth/1.png", "rgb/out/1.png", "rgb/out/old.png")

    found = matched(tmp_path / "rgb", tmp_path / "depth", tmp_path / "rgb" / "out")

    assert len(found.pairs) == 1
    assert found.alone == []


@pytest.mark.parametrize(
    ("rgb", "aux", "out", "word"),
    [
        ("nowhere", "depth", "out", "nowhere: no such file or folder"),
        ("rgb/*.bmp", "depth", "out", "no file there"),
        ("empty", "depth", "out", "no picture there"),
        ("rgb", "other", "out", "no picture of"),
        ("twice", "depth", "out", "have the same name, 1"),
        ("rgb", "depth", "depth", "depth is a folder of pictures"),
    ],
)
def test_what_makes_no_pairs_is_told(
    tmp_path: Path, rgb: str, aux: str, out: str, word: str
) -> None:
    touch(tmp_path, "rgb/1.jpg", "depth/1.png", "other/9.png", "twice/1.jpg", "twice/1.png")
    (tmp_path / "empty").mkdir()

    with pytest.raises(NoPairs, match=word.replace("*", r"\*")):
        matched(tmp_path / rgb, tmp_path / aux, tmp_path / out)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(Unwritable, match="cannot write"):
        write_whole(tmp_path / "taken", b"body")

    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


class Folder:
    """Pairs in two folders, and the command over them."""

    def __init__(self, root: Path, pairs: int) -> None:
        self.rgb, self.depth, self.out = root / "rgb", root / "depth", root / "out"
        for folder in (self.rgb, self.depth):
            folder.mkdir()
        for index in range(pairs):
            (self.rgb / f"{index:04}.png").write_bytes(encoded(noise(seed=index)))
            (self.depth / f"{index:04}.png").write_bytes(encoded(ramp()))

    def words(self, *more: str) -> list[str]:
        sources = [str(self.rgb), str(self.depth)]
        return ["predict", "saliency", *sources, "--out", str(self.out), *more]

    def predict(self, *more: str) -> Result:
        return CliRunner().invoke(cli, self.words(*more))

    def report(self, *more: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.predict(*more, "--json").stdout)
        return report

    def times(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.out.glob("*.png")}


@pytest.fixture
def folder(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(bundles))
    return Folder(tmp_path, 40)


def test_each_pair_gets_its_own_answer(folder: Folder) -> None:
    result = folder.predict("--output", "npy")

    assert result.exit_code == 0, result.output
    assert "40 written" in result.output
    for index in (0, 17, 39):
        found = np.load(folder.out / f"{index:04}.npy")
        expected = noise(seed=index).mean(axis=-1) * 0.5 / 255 + ramp() * 0.5 / 255
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_finished_answers_are_not_made_again(folder: Folder) -> None:
    assert folder.report()["written"] == 40
    for name in ("0003.png", "0030.png"):
        (folder.out / name).unlink()
    os.utime(folder.depth / "0007.png")  # newer than its answer
    before = folder.times()

    report = folder.report()

    after = folder.times()
    assert (report["written"], report["skipped"], report["left"]) == (3, 37, 0)
    assert {name for name in after if after[name] != before.get(name)} == {
        "0003.png",
        "0007.png",
        "0030.png",
    }


def test_answers_to_another_question_are_neither_kept_nor_lost(folder: Folder) -> None:
    folder.predict()
    before = folder.times()

    refused = folder.predict("--output", "mask")

    assert refused.exit_code == 1
    assert "was made with output=map" in refused.output
    assert folder.times() == before

    report = folder.report("--output", "mask", "--overwrite")

    assert (report["written"], report["skipped"]) == (40, 0)
    with Image.open(folder.out / "0000.png") as mask:
        assert set(mask.tobytes()) == {0, 255}
    assert folder.report("--output", "mask")["skipped"] == 40


def test_overwriting_that_was_stopped_goes_on(folder: Folder) -> None:
    folder.predict()
    old = [folder.out / f"{index:04}.png" for index in range(25)]
    folder.predict("--output", "mask", "--overwrite")
    for path in (*folder.rgb.iterdir(), *folder.depth.iterdir()):
        os.utime(path, ns=(1, 1))
    for path in old:  # as if the second run had not come to these
        os.utime(path, ns=(2, 2))

    report = folder.report("--output", "mask")

    assert (report["written"], report["skipped"]) == (25, 15)


def test_files_that_nobody_explains_are_not_replaced(folder: Folder) -> None:
    folder.out.mkdir()
    (folder.out / "0005.png").write_bytes(b"precious")

    result = folder.predict()

    assert result.exit_code == 1
    assert "0005.png is there already" in result.output
    assert (folder.out / "0005.png").read_bytes() == b"precious"


def test_a_bad_pair_fails_alone(folder: Folder) -> None:
    (folder.depth / "0004.png").write_bytes(encoded(noise()))
    (folder.rgb / "0005.png").write_bytes(b"not a picture")
    (folder.depth / "0006.png").unlink()

    result = folder.predict("--json")

    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["written"] == 37
    assert [(fault["code"], fault["field"]) for fault in report["failed"]] == [
        ("not_depth", "depth"),
        ("unreadable_picture", "rgb"),
    ]
    assert report["alone"] == [str(folder.rgb / "0006.png")]
    assert f"no partner for {folder.rgb / '0006.png'}" in result.stderr
    assert len(list(folder.out.glob("*.png"))) == 37


def test_warnings_name_their_pair(folder: Folder) -> None:
    (folder.depth / "0004.png").write_bytes(encoded(np.zeros_like(ramp())))

    report = folder.report()

    assert report["warnings"] == [
        {"rgb": str(folder.rgb / "0004.png"), "warning": "depth is constant"}
    ]


def test_a_folder_that_cannot_be_written_is_no_traceback(folder: Folder) -> None:
    folder.out.parent.joinpath("file").touch()
    folder.out = folder.out.parent / "file" / "out"

    result = folder.predict()

    assert result.exit_code == 1
    assert "cannot write" in result.output
    assert "Traceback" not in result.output


def test_a_pattern_that_the_shell_expanded_is_explained(folder: Folder) -> None:
    result = folder.predict(str(folder.rgb / "0001.png"))

    assert result.exit_code == 1
    assert "quoted" in result.output


def test_embeddings_are_written_one_file_a_pair(
    both_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUTUALFORMER_BUNDLES", str(both_bundles))
    for index in range(10):
        for role, picture in zip(("rgb", "nir"), crops(index), strict=True):
            (tmp_path / f"{index}_{role}.png").write_bytes(encoded(picture))
    sources = [str(tmp_path / "*_rgb.png"), str(tmp_path / "*_nir.png")]

    result = CliRunner().invoke(cli, ["predict", "reid", *sources, "--out", str(tmp_path / "out")])

    assert result.exit_code == 0, result.output
    for index in range(10):
        (found,) = json.loads((tmp_path / "out" / f"{index}.json").read_text())["embeddings"]
        np.testing.assert_allclose(found, embedded(crops(index))[0], atol=1e-6)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_whole_answers_and_goes_on(
    folder: Folder, sent: signal.Signals
) -> None:
    for source, picture in ((folder.rgb, noise(400, 400)), (folder.depth, ramp(400, 400))):
        large = source.parent / f"{source.name}.png"
        large.write_bytes(encoded(picture))
        for index in range(200):
            (source / f"{index:04}.png").unlink(missing_ok=True)
            (source / f"{index:04}.png").symlink_to(large)
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *folder.words("--json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that starts the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.out.glob("*.png")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()

    report = json.loads(stdout)
    assert process.returncode == 130
    assert report["interrupted"]
    assert 0 < report["written"] < 200
    assert report["written"] + report["left"] == 200
    assert b"the same command goes on" in stderr
    assert b"Traceback" not in stderr
    answers = [path for path in folder.out.iterdir() if path.name != ".predict"]
    assert len(answers) == report["written"]
    for path in answers:
        with Image.open(path) as image:
            image.load()
    for path in folder.rgb.iterdir():
        if int(path.stem) >= report["written"] + 20 and not (folder.out / path.name).exists():
            path.unlink()  # the rest would take long
    before = folder.times()
    again = folder.report()
    assert again["skipped"] == report["written"]
    assert again["written"] > 0
    assert before.items() <= folder.times().items()
