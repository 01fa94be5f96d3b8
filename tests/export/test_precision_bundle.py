"""Bundles whose products are computed in 16 bits, and what their certificates say."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.inputs import scenes
from export.judge import read_pairs
from export.pack import Conversion, Options, export_bundle, with_precision, write_bundle
from export.parity import LOW_MEAN_ERROR, MAX_ABS_ERROR, ParityError
from export.precision import Low
from model.bundle import Bundle, load_canary, open_bundle
from model.checkpoint import Checkpoint
from model.runtimes.base import RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.model.tiny import SIDE


@pytest.fixture(scope="module")
def pairs_file(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs, and as the truth of the first six what the float32 bundle finds."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    rgb, aux = scenes(10, (SIDE, SIDE), seed=3)
    np.savez(path, rgb=rgb, aux=aux, gt=OnnxRuntime(bundle.model_path).run(rgb, aux)[:6] > 0.5)
    return path


@pytest.fixture(scope="module")
def calm(conversion: Conversion) -> Conversion:
    """Random weights amplify rounding; a flatter last layer does less so, and bfloat16 passes."""
    model = onnx.ModelProto()
    model.CopyFrom(conversion.model)
    (head,) = [t for t in model.graph.initializer if t.name.endswith("decoder.heads.0.weight")]
    values = numpy_helper.to_array(head) / 20
    head.CopyFrom(numpy_helper.from_array(values, head.name))
    networks = []
    for step, network, tolerance in conversion.forms:
        network = copy.deepcopy(network)
        last = network.get_submodule("decoder.heads.0")
        assert isinstance(last, torch.nn.Conv2d)
        last.weight.data /= 20
        networks.append((step, network, tolerance))
    return Conversion(model, tuple(networks))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_bundle_of_fewer_bits_says_what_they_cost(
    checkpoint: Checkpoint, calm: Conversion, pairs_file: Path, precision: Low, tmp_path: Path
) -> None:
    real = read_pairs(pairs_file, (SIDE, SIDE))
    options = Options(precision=precision, real=real)

    written = write_bundle(checkpoint, with_precision(calm, precision), tmp_path / "out", options)

    found = open_bundle(written.path)
    assert (found.manifest.precision, found.manifest.weights_precision) == (precision, precision)
    assert found.manifest.opset == {"fp16": 20, "bf16": 22}[precision]
    steps = {step["step"]: step for step in found.parity["steps"]}
    low = steps["fp16" if precision == "fp16" else "bf16_emulated"]
    assert steps["onnxruntime"]["max_abs_error"] <= MAX_ABS_ERROR
    assert set(low["by_batch"]) == {"1", "3", "8"}
    assert set(low["real"]["by_batch"]) == {"1", "3", "8"}
    for errors in (low, low["real"]):
        assert errors["max_abs_error"] > steps["onnxruntime"]["max_abs_error"]
        assert errors["mean_abs_error"] <= LOW_MEAN_ERROR
    scores = found.parity["real"]["scores"]
    assert scores["trained"].keys() == {"mae", "s_measure"}
    assert scores["trained"]["mae"] == pytest.approx(scores[low["step"]]["mae"], abs=1e-3)
    assert found.parity["real"] | {"scores": None} == {
        "file": "pairs.npz", "pairs": 10, "scores": None,
    }  # fmt: skip
    assert found.parity["tensorrt"]["refused"] == []
    assert "TensorRT engine" in found.parity["not_run"][0]
    assert found.canary_tolerance == max(2 * low["max_abs_error"], 1e-3)
    assert ("largest_values" in found.parity) == (precision == "fp16")
    card = (found.path / "README.md").read_text()
    assert f"{precision} products, weights stored as {precision}" in card
    assert "On 10 pairs of pairs.npz:" in card
    assert "Not run: a TensorRT engine" in card


def test_a_float16_bundle_answers_its_canary(
    checkpoint: Checkpoint, calm: Conversion, tmp_path: Path
) -> None:
    options = Options(precision="fp16")

    written = write_bundle(checkpoint, with_precision(calm, "fp16"), tmp_path / "out", options)

    rgb, aux, expected = load_canary(written)
    answer = OnnxRuntime(written.model_path).run(rgb, aux)
    assert np.abs(answer - expected).max() < 1e-4


def test_a_bfloat16_bundle_is_refused_by_a_cpu_in_so_many_words(
    checkpoint: Checkpoint, calm: Conversion, tmp_path: Path
) -> None:
    options = Options(precision="bf16")

    written = write_bundle(checkpoint, with_precision(calm, "bf16"), tmp_path / "out", options)

    with pytest.raises(RuntimeFailure, match="NOT_IMPLEMENTED"):
        OnnxRuntime(written.model_path)


def test_rounding_that_costs_too_much_writes_nothing(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path: Path
) -> None:
    """The random network as it is: bfloat16 costs it 9e-3, see `test_lower`."""
    options = Options(precision="bf16")

    with pytest.raises(ParityError, match=r"bf16_emulated: mean abs error .*, at most 0\.002"):
        write_bundle(checkpoint, with_precision(conversion, "bf16"), tmp_path / "out", options)

    assert list(tmp_path.iterdir()) == []


def test_weights_cannot_be_stored_otherwise_than_they_are_used(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    options = Options(precision="fp16", weights="float16")

    with pytest.raises(ValueError, match="fp16 products are stored as such already"):
        export_bundle(checkpoint, tmp_path / "out", options)


def test_the_canary_of_a_float32_bundle_allows_what_its_certificate_says(bundle: Bundle) -> None:
    (step,) = [s for s in bundle.parity["steps"] if s["step"] == "onnxruntime"]

    assert bundle.canary_tolerance == max(100 * step["max_abs_error"], 1e-4)
    assert replace(bundle, parity={}).canary_tolerance == 1e-3
