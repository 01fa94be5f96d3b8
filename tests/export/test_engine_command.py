"""`python -m export engine`, against fakes; see `tests/model/test_tensorrt_runtime.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.inputs import scenes
from model.bundle import Bundle
from model.engines import EngineOptions
from model.runtimes import tensorrt
from model.runtimes.base import RuntimeFailure
from model.runtimes.echo import EchoRuntime
from tests.app.tiny import SIDE, write_bundle


class FakeRuntime(EchoRuntime):
    """Takes a second to build, as told by `report`; answers with an error of `off`."""

    off = 0.0
    asked: tuple[EngineOptions, Path | None]

    def __init__(
        self, model_path: Path, *, options: EngineOptions, folder: Path | None, report: Any
    ) -> None:
        type(self).asked = (options, folder)
        report(f"building {model_path.name}")

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        return super().run(rgb, aux) + np.float32(self.off)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(FakeRuntime, "off", 0.0)
    monkeypatch.setattr(tensorrt, "TensorRTRuntime", FakeRuntime)
    return write_bundle(tmp_path / "tiny")


def engine(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["engine", *map(str, arguments)])


def test_an_engine_is_built_and_tried_on_the_canary(bundle: Bundle, tmp_path: Path) -> None:
    result = engine(
        bundle.path, "--max-batch", "4", "--typical-batch", "2", "--version-compatible",
        "--hardware-compatibility", "ampere_plus", "--engines", tmp_path / "kept",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "building model.onnx" in result.output
    assert "tiny@1: canary max abs error" in result.output
    options, folder = FakeRuntime.asked
    assert folder == tmp_path / "kept"
    assert options == EngineOptions(
        2, 4, version_compatible=True, hardware_compatibility="ampere_plus"
    )


def test_an_engine_that_answers_otherwise_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRuntime, "off", 0.01)

    result = engine(bundle.path)

    assert result.exit_code == 1
    assert "does not answer as the exporter's graph does" in result.output


def pairs_file(folder: Path) -> Path:
    rgb, aux = scenes(9, (SIDE, SIDE), seed=2)
    np.savez(folder / "pairs.npz", rgb=rgb, aux=aux, gt=aux[..., 0] > 0.5)
    return folder / "pairs.npz"


def test_the_certificate_compares_with_the_graph(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "engine.json"

    result = engine(
        bundle.path, "--max-batch", "12", "--certificate", out, "--judge", pairs_file(tmp_path)
    )

    assert result.exit_code == 0, result.output
    certificate = json.loads(out.read_text())
    names = [step["step"] for step in certificate["steps"]]
    assert names == ["engine", "end_to_end", "batch_invariance"]
    step = certificate["steps"][0]
    assert set(step["by_batch"]) == set(step["real"]["by_batch"]) == {"1", "3", "12"}
    assert step["tolerance"] == bundle.canary_tolerance
    assert certificate["real"]["scores"]["engine"].keys() == {"mae", "s_measure"}


def test_an_engine_that_is_wrong_for_large_batches_alone_is_an_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary has two rows, and is content."""
    right = FakeRuntime.run

    def wrong(
        self: FakeRuntime, rgb: NDArray[np.uint8], aux: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return right(self, rgb, aux) + np.float32(0.01 if len(rgb) == 16 else 0)

    monkeypatch.setattr(FakeRuntime, "run", wrong)
    out = tmp_path / "engine.json"

    result = engine(bundle.path, "--certificate", out)

    assert result.exit_code == 1
    assert "engine: max abs error 0.01, at most 0.001" in result.output
    assert not out.exists()


def test_without_tensorrt_the_command_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeFailure("the tensorrt runtime needs its extra")

    monkeypatch.setattr(tensorrt, "TensorRTRuntime", fail)

    result = engine(bundle.path)

    assert result.exit_code == 1
    assert "needs its extra" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--max-batch", "1"), "typical_batch <= max_batch"), (("--builder-level", "9"), "0 to 5")],
)
def test_a_wrong_option_is_named(bundle: Bundle, arguments: tuple[str, ...], message: str) -> None:
    result = engine(bundle.path, *arguments)

    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    result = engine(tmp_path / "nothing")

    assert result.exit_code == 2
    assert "manifest.json" in result.output


def test_the_older_call_is_still_the_same() -> None:
    for arguments in (
        ["absent.safetensors", "--out", "out"],
        ["--out", "out", "absent.safetensors"],
    ):
        result = CliRunner().invoke(app, [*arguments])

        assert result.exit_code == 2
        assert "cannot read checkpoint absent.safetensors" in result.output
