"""`models`, and what `check` tells scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from app.__main__ import cli
from tests.app.tiny import write_bundle

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    write_bundle(tmp_path / "tiny-reid", task="reid")
    return tmp_path


def spoil(folder: Path) -> None:
    (folder / "tiny" / "model.onnx").write_bytes(b"altered")
    (folder / "tiny-reid" / "canary.npz").unlink()


def test_bundles_are_listed_without_being_run(folder: Path) -> None:
    (folder / "tiny" / "model.onnx").write_bytes(b"not a graph")

    result = RUN.invoke(cli, ["models", "list", "--bundles", str(folder)])

    assert result.exit_code == 0, result.output
    assert [line.split()[:3] for line in result.output.splitlines()[1:]] == [
        ["tiny@1", "saliency", "64x64"],
        ["tiny-reid@1", "reid", "64x64"],
    ]


@pytest.mark.parametrize("name", ["tiny-reid", "tiny-reid@1"])
def test_a_bundle_is_shown(folder: Path, name: str) -> None:
    words = ["models", "show", name, "--bundles", str(folder)]

    text, report = RUN.invoke(cli, words), RUN.invoke(cli, [*words, "--json"])

    assert "preprocess_id: reid-1" in text.output
    assert json.loads(report.stdout)["manifest"]["dim"] == 65
    assert json.loads(report.stdout)["parity"] == {"onnx": {"max_abs_error": 0.0}}


@pytest.mark.parametrize("name", ["other", "tiny@2"])
def test_an_unknown_name_is_told_what_there_is(folder: Path, name: str) -> None:
    result = RUN.invoke(cli, ["models", "show", name, "--bundles", str(folder)])

    assert result.exit_code == 1
    assert "there is tiny@1, tiny-reid@1" in result.output


def test_every_bad_bundle_is_named_not_only_the_first(folder: Path) -> None:
    spoil(folder)

    for words in (["models", "verify"], ["check"]):
        result = RUN.invoke(cli, [*words, "--bundles", str(folder)])

        assert result.exit_code == 1
        assert "tiny/model.onnx: sha256 is" in result.output
        assert "tiny-reid/canary.npz: missing" in result.output


def test_one_bad_bundle_does_not_hide_a_good_one(folder: Path) -> None:
    (folder / "tiny-reid" / "canary.npz").unlink()

    result = RUN.invoke(cli, ["models", "verify", "--json", "--bundles", str(folder)])

    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["good"] == ["tiny@1"]
    assert len(report["broken"]) == 1


def test_bundles_of_one_name_cannot_be_served_together(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "twin")

    for words in (["models", "list"], ["models", "verify"], ["check"]):
        result = RUN.invoke(cli, [*words, "--bundles", str(folder)])

        assert result.exit_code == 1
        assert f"{folder / 'tiny'} is named 'tiny' too" in result.output


def test_check_answers_scripts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = RUN.invoke(cli, ["check", "--json", "--bundles", str(folder)])
    monkeypatch.setenv("MUTUALFORMER_PROT", "1")
    monkeypatch.setenv("MUTUALFORMER_PORT", "99999")
    bad = RUN.invoke(cli, ["check", "--json", "--bundles", str(folder)])

    assert (good.exit_code, bad.exit_code) == (0, 1)
    report = json.loads(good.stdout)
    assert report["good"]
    assert [model["model_id"] for model in report["models"]] == ["tiny@1", "tiny-reid@1"]
    problems = json.loads(bad.stdout)["problems"]
    assert ["PROT" in line or "PORT" in line for line in problems] == [True, True]


@pytest.mark.parametrize("words", [["models", "list"], ["models", "verify"], ["check"]])
def test_an_empty_folder_is_a_problem(tmp_path: Path, words: list[str]) -> None:
    result = RUN.invoke(cli, [*words, "--bundles", str(tmp_path)])

    assert result.exit_code == 1
    assert "no bundle in this folder" in result.output


def test_shells_can_complete_the_commands() -> None:
    result = RUN.invoke(
        cli,
        [],
        prog_name="mutualformer",
        env={
            "_MUTUALFORMER_COMPLETE": "complete_bash",
            "COMP_WORDS": "mutualformer mod",
            "COMP_CWORD": "1",
        },
    )

    assert result.output.split() == ["models"]
