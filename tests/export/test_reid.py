"""Re-identification checkpoints become bundles that answer as the trained network does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.inputs import parity_pairs
from export.pack import Conversion, Options, convert, with_float16_weights, write_bundle
from export.parity import MAX_ABS_ERROR, MAX_BATCH_EFFECT, MIN_COSINE, ParityError
from export.precision import LARGE
from model.bundle import Bundle, load_canary, open_bundle
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config import ReIDConfig
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.export.test_command import export
from tests.export.test_pack import tampered
from tests.model.test_reid import network, pairs
from tests.model.tiny import TINY_REID as TINY
from tests.model.tiny import TINY_VIT

CLASSES = 23
"""No other length in the network."""
CONFIGS = {
    # So many cameras that their embedding is among the weights that float16 rounds.
    "cnn": replace(TINY, num_classes=CLASSES, num_cameras=70),
    "vit": replace(TINY_VIT, num_classes=CLASSES, shared_trunk=True, backbone_args={"depth": 2}),
}
OPSETS = {"cnn": 20, "vit": 18}
assert CONFIGS["cnn"].num_cameras * TINY.embed_dim > LARGE


@dataclass(frozen=True)
class Exported:
    checkpoint: Checkpoint
    conversion: Conversion
    bundle: Bundle


def trained(config: ReIDConfig) -> Checkpoint:
    """Random weights; statistics that spread the compared pairs, so that errors cannot hide."""
    reid = network(config).train()
    for module in reid.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        reid(*(torch.from_numpy(each) for each in parity_pairs(config.input_size)))
    recipe = {"preset": "tiny", "steps": 7, "data": {"source": "crops", "roots": ["/x/vehicles"]}}
    return Checkpoint(
        config=config,
        state=reid.state_dict(),
        recipe=recipe,
        metrics={"mean_ap": 0.5},
        licence="None: random weights.",
    )


@pytest.fixture(scope="session", params=CONFIGS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Slow, so made once."""
    file = tmp_path_factory.mktemp(request.param) / "best.safetensors"
    save_checkpoint(file, trained(CONFIGS[request.param]))
    checkpoint = load_checkpoint(file)
    options = Options(opset=OPSETS[request.param])
    conversion = convert(checkpoint, options)
    out = file.parent / "bundles" / "tiny"
    return Exported(checkpoint, conversion, write_bundle(checkpoint, conversion, out, options))


def test_a_bundle_says_what_its_answers_need(exported: Exported) -> None:
    manifest = open_bundle(exported.bundle.path, verify=True).manifest

    config = exported.checkpoint.config
    assert isinstance(config, ReIDConfig)
    assert (manifest.task, manifest.output) == ("reid", "embedding")
    assert manifest.dim == 3 * config.embed_dim
    assert manifest.modality_policy == "reject"
    assert manifest.input_size == (64, 32)
    assert manifest.preprocessing.preprocess_id == "reid-1"
    assert manifest.preprocessing.aux == "full_range"
    assert manifest.metrics == {"validation": {"mean_ap": 0.5}}
    assert ReIDConfig.from_dict(manifest.config) == replace(config, num_classes=0)


def test_every_step_holds_both_bars(exported: Exported) -> None:
    steps = {step["step"]: step for step in exported.bundle.parity["steps"]}

    assert set(steps) == {"batch_norm_folding", "onnxruntime", "end_to_end", "batch_invariance"}
    for step in steps.values():
        assert step["max_abs_error"] < MAX_ABS_ERROR, step
        assert step["min_cosine"] > MIN_COSINE, step
    assert steps["batch_invariance"]["max_abs_error"] < MAX_BATCH_EFFECT
    by_batch = steps["end_to_end"]["by_batch"]
    assert set(by_batch) == {"1", "3", "8"}
    assert min(each["min_cosine"] for each in by_batch.values()) > MIN_COSINE


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_bundle_answers_as_the_trained_network(exported: Exported, batch: int) -> None:
    config = exported.checkpoint.config
    assert isinstance(config, ReIDConfig)
    rgb, aux = pairs(config, batch)

    answer = OnnxRuntime(exported.bundle.model_path).run(rgb.numpy(), aux.numpy())

    with torch.no_grad():
        expected = exported.checkpoint.build()(rgb, aux).numpy()
    assert answer.shape == (batch, 3 * config.embed_dim)
    assert np.abs(answer - expected).max() < MAX_ABS_ERROR
    np.testing.assert_allclose(np.linalg.norm(answer, axis=1), 1, atol=1e-6)  # float32


def test_the_graph_holds_no_classifier_and_folds_what_follows_a_convolution(
    exported: Exported,
) -> None:
    graph = exported.conversion.model.graph

    assert not [t.name for t in graph.initializer if CLASSES in t.dims]
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) <= 3  # of the necks, which follow a pooling
    (output,) = graph.output
    assert output.name == "embedding"


def test_the_canary_repeats(exported: Exported) -> None:
    rgb, aux, expected = load_canary(exported.bundle)

    answer = OnnxRuntime(exported.bundle.model_path).run(rgb, aux)

    assert np.abs(answer - expected).max() < MAX_ABS_ERROR
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_the_card_tells_of_embeddings_and_not_of_maps(exported: Exported) -> None:
    card = (exported.bundle.path / "README.md").read_text()

    dim = exported.bundle.manifest.dim
    assert card.startswith("# tiny 0.1.0\n")
    assert f"| output `embedding` | float32 (B, {dim}), unit length |" in card
    assert "near-infrared" in card
    assert "| step | max abs error | allowed | mean | least cosine |" in card
    assert "- vehicles: crops" in card
    for word in ("depth", "salien", "decoder", "stands out"):
        assert word not in card.lower()


def test_float16_weights_are_measured_and_the_graph_agrees_with_them(
    exported: Exported, tmp_path: Path
) -> None:
    conversion = with_float16_weights(exported.conversion)

    bundle = write_bundle(
        exported.checkpoint, conversion, tmp_path / "half", Options(weights="float16")
    )

    steps = {step["step"]: step for step in bundle.parity["steps"]}
    assert steps["float16_weights"]["tolerance"] is None
    assert steps["float16_weights"]["max_abs_error"] > MAX_ABS_ERROR
    assert steps["float16_weights"]["min_cosine"] < 1
    assert steps["onnxruntime"]["max_abs_error"] < MAX_ABS_ERROR
    assert bundle.model_path.stat().st_size < 0.7 * exported.bundle.model_path.stat().st_size


def test_a_changed_weight_writes_nothing(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="onnxruntime: max abs error"):
        write_bundle(
            exported.checkpoint, tampered(exported.conversion), tmp_path / "out", Options()
        )

    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_the_cosine_of_every_step(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pack.export_bundle", lambda *_: exported.bundle)
    save_checkpoint(tmp_path / "best.safetensors", exported.checkpoint)

    result = export(tmp_path / "best.safetensors", "--out", exported.bundle.path)

    assert result.exit_code == 0, result.output
    assert result.output.count(", cosine 1.0000000") == len(exported.bundle.parity["steps"])


def test_a_size_that_positions_do_not_have_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", trained(CONFIGS["vit"]))

    result = export(tmp_path / "best.safetensors", "--out", tmp_path / "out", "--size", "32", "48")

    assert result.exit_code == 2
    assert "pos_embed" in result.output
    assert not (tmp_path / "out").exists()
