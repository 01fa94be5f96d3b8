from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

from export.__main__ import app
from model.bundle import open_bundle
from model.checkpoint import Checkpoint, save_checkpoint


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, checkpoint)
    return path


def test_a_name_that_no_address_takes_is_refused_at_once(file: Path, tmp_path: Path) -> None:
    result = export(file, "--out", tmp_path / "out", "--name", "My model")

    assert result.exit_code == 2
    assert "got 'My model'" in result.output


def test_one_command_makes_a_bundle(file: Path, tmp_path: Path) -> None:
    scores, card, out = tmp_path / "scores.json", tmp_path / "card.md", tmp_path / "new" / "tiny"
    scores.write_text(json.dumps({"photos": {"s_measure": 0.75}}))
    card.write_text("Only for apples.")

    result = export(
        file, "--out", out, "--name", "mine", "--version", "1.2", "--opset", "18",
        "--size", "32", "64", "--weights", "float16", "--metrics", scores, "--card", card,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "onnxruntime          max abs error" in result.output
    assert "mine@1.2" in result.output
    manifest = open_bundle(out).manifest
    assert manifest.input_size == (32, 64)
    assert manifest.config["input_size"] == [32, 64]
    assert (manifest.opset, manifest.weights_precision) == (18, "fp16")
    assert manifest.metrics == {"photos": {"s_measure": 0.75}}
    assert "Only for apples." in (out / "README.md").read_text()
    (opset,) = onnx.load(out / "model.onnx").opset_import
    assert opset.version == 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "32", "50"), "input_size must be multiples of 32"),
        (("--opset", "17"), "opset must be among (18, 19, 20), got 17"),
        (("--weights", "int4"), "int4"),
        (("--metrics", "absent.json"), "absent.json"),
        (("--card", "absent.md"), "absent.md"),
    ],
)
def test_a_wrong_option_is_named(
    file: Path, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = export(file, "--out", tmp_path / "out", *arguments)

    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[1]", '{"mae": 0.1}', "not json"])
def test_scores_of_another_shape_are_named(file: Path, content: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(content)

    result = export(file, "--out", tmp_path / "out", "--metrics", tmp_path / "scores.json")

    assert result.exit_code == 2
    assert "scores.json" in result.output


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")

    result = export(tmp_path / "x.safetensors", "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert "cannot read checkpoint" in result.output
