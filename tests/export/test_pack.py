from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.card import training_data
from export.pack import Conversion, Options, export_bundle, modality_policy, write_bundle
from export.parity import MAX_ABS_ERROR, ParityError
from export.to_onnx import ConversionError
from model.bundle import Bundle, BundleError, find_bundles, load_canary, open_bundle
from model.checkpoint import Checkpoint
from model.config import SaliencyConfig
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.model.tiny import SIDE

FILES = {"README.md", "canary.npz", "manifest.json", "model.onnx", "parity.json"}


def tampered(conversion: Conversion, by: float = 0.1) -> Conversion:
    """With one weight of the largest tensor changed."""
    model = onnx.ModelProto()
    model.CopyFrom(conversion.model)
    tensor = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += values.dtype.type(by * np.abs(values).max())
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return Conversion(model, conversion.forms)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("which", ["bundle", "bundle_float16"])
def test_a_bundle_is_complete_and_verified(which: str, request: pytest.FixtureRequest) -> None:
    written: Bundle = request.getfixturevalue(which)

    found = open_bundle(written.path, verify=True)

    assert {path.name for path in found.path.iterdir()} == FILES
    assert list(found.path.parent.iterdir()) == [found.path]
    assert found.manifest == written.manifest
    assert found.manifest.model_id == "tiny@0.1.0"
    assert found.manifest.input_size == (SIDE, SIDE)


@pytest.mark.parametrize("which", ["bundle", "bundle_float16"])
def test_every_step_holds_its_bar(which: str, request: pytest.FixtureRequest) -> None:
    written: Bundle = request.getfixturevalue(which)

    steps = {step["step"]: step for step in written.parity["steps"]}

    assert steps["onnxruntime"]["tolerance"] == MAX_ABS_ERROR
    assert set(steps["onnxruntime"]["by_batch"]) == {"1", "3", "8"}
    for step in steps.values():
        if step["tolerance"] is not None:
            assert step["max_abs_error"] <= step["tolerance"], step
    # Rounding is the one step that is allowed to show, and it does.
    rounded = which == "bundle_float16"
    assert ("float16_weights" in steps) == rounded
    assert (steps["end_to_end"]["max_abs_error"] > 1e-5) == rounded
    assert written.manifest.weights_precision == ("fp16" if rounded else "fp32")


def test_the_canary_repeats(bundle: Bundle) -> None:
    rgb, aux, expected = load_canary(bundle)

    answer = OnnxRuntime(bundle.model_path).run(rgb, aux)

    assert len(rgb) == 2
    assert np.abs(answer - expected).max() < 1e-5
    assert expected.std() > 0.01


def test_the_manifest_says_where_the_weights_come_from(bundle: Bundle) -> None:
    manifest = bundle.manifest

    assert manifest.training_data == [
        "photos: photos with masks, depth simulated",
        "more: photos with masks, depth simulated",
        "landscapes: backgrounds",
        "trunk.safetensors: initial trunks",
    ]
    assert manifest.metrics == {"validation": {"s_measure": 0.5, "mae": 0.25}}
    assert manifest.licence == "None: random weights."
    assert manifest.config["backbone"] == "test_efficientnet"
    assert manifest.opset == 20


def test_the_card_tells_scores_errors_and_terms(bundle: Bundle) -> None:
    card = (bundle.path / "README.md").read_text()

    assert card.startswith("# tiny 0.1.0\n")
    assert "| set | s_measure | mae |\n| --- | --- | --- |\n| validation | 0.500 | 0.250 |" in card
    assert "| steps | 7 |" in card
    assert "| batch norm folding |" in card
    assert "None: random weights." in card
    assert "/somewhere" not in card


def test_scores_and_limits_may_be_given(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    options = Options(
        version="2",
        metrics={"ten photos": {"mae": 0.08, "images": 10}, "other": {"mae": 0.1}},
        notes="Only for apples.\n",
    )

    written = write_bundle(checkpoint, conversion, tmp_path / "out", options)

    card = (written.path / "README.md").read_text()
    assert "| ten photos | 0.080 | 10 |\n| other | 0.100 |  |" in card
    assert "## Limits\n\nOnly for apples.\n" in card
    assert written.manifest.model_id == "tiny@2"
    assert written.manifest.metrics["ten photos"]["images"] == 10


def test_a_checkpoint_without_origin_is_said_to_have_none(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    bare = replace(checkpoint, recipe={}, metrics={}, commit="", licence="")

    written = write_bundle(bare, conversion, tmp_path / "out", Options())

    card = (written.path / "README.md").read_text()
    assert "names no recipe" in card
    assert "Not measured." in card
    assert written.manifest.licence == "not stated"
    assert training_data({}) == []


@pytest.mark.parametrize("which", ["conversion", "conversion_float16"])
def test_a_changed_weight_writes_nothing(
    checkpoint: Checkpoint, which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    changed = tampered(request.getfixturevalue(which))

    with pytest.raises(ParityError, match="onnxruntime: max abs error"):
        write_bundle(checkpoint, changed, tmp_path / "out", Options())

    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_bundle(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(checkpoint, conversion, out, Options())
    before = everything_in(tmp_path)

    with pytest.raises(ParityError):
        write_bundle(checkpoint, tampered(conversion), out, Options(version="2"))

    assert everything_in(tmp_path) == before


def test_a_bundle_is_replaced_as_a_whole(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bundle(checkpoint, conversion, out, Options())
    (out / "left over.txt").write_text("of the old one")

    write_bundle(checkpoint, conversion, out, Options(version="2"))

    (found,) = find_bundles(tmp_path)
    assert found.manifest.version == "2"
    assert {path.name for path in out.iterdir()} == FILES
    assert list(tmp_path.iterdir()) == [out]


def test_a_move_that_fails_puts_the_old_bundle_back(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_bundle(checkpoint, conversion, out, Options())
    before = everything_in(tmp_path)
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if target == out and source.name == out.name:
            raise OSError("no")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write_bundle(checkpoint, conversion, out, Options(version="2"))

    assert everything_in(tmp_path) == before


def test_a_manifest_that_does_not_fit_writes_nothing(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="version"):
        write_bundle(checkpoint, conversion, tmp_path / "out", Options(version="not a version"))

    assert list(tmp_path.iterdir()) == []


def test_a_broken_graph_writes_nothing(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(conversion.model)
    del model.graph.initializer[0]

    with pytest.raises(ConversionError, match="the graph is not valid"):
        write_bundle(checkpoint, Conversion(model, conversion.forms), tmp_path / "out", Options())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["folder", "file"])
def test_nothing_but_a_bundle_is_replaced(
    checkpoint: Checkpoint, content: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if content == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    before = everything_in(tmp_path)

    with pytest.raises(ValueError, match="out exists and is not a bundle"):
        export_bundle(checkpoint, out, Options())

    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, Options(size=(64, 50)), r"input_size must be multiples of 32, got \(64, 50\)"),
        ({}, Options(opset=21), r"opset must be among \(18, 19, 20\), got 21"),
        ({"state": {}}, Options(), "decoder.heads.0.weight"),
    ],
)
def test_what_does_not_fit_is_named(
    checkpoint: Checkpoint, change: dict[str, str], options: Options, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle(replace(checkpoint, **change), tmp_path / "out", options)  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("drop_aux", "stand_in", "expected"),
    [(0.2, True, "substitute"), (0.2, False, "substitute"), (0.0, True, "reject")],
)
def test_only_a_network_that_was_without_depth_in_training_declares_to_do_without(
    drop_aux: float, stand_in: bool, expected: str
) -> None:
    config = replace(SaliencyConfig.preset("saliency-compact"), stand_in=stand_in)

    assert modality_policy(Checkpoint(config, {}, recipe={"drop_aux": drop_aux})) == expected
    assert modality_policy(Checkpoint(config, {})) == "reject"
