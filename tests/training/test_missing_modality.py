from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from export.pack import Options, export_bundle
from model.bundle import load_canary
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config import ReIDConfig, SaliencyConfig
from model.reid import ReIDNet
from model.runtimes.onnx_runtime import OnnxRuntime
from model.saliency import SaliencyNet
from tests.training.scenes import write_triple
from tests.training.test_loop import TINY
from tests.training.test_reid import TINY as TINY_REID
from training.__main__ import app
from training.data.sample import drop_modalities
from training.loop import fit
from training.recipe import DataRecipe, SaliencyRecipe
from training.saliency import SaliencyTask


def saliency_net(**changes: Any) -> SaliencyNet:
    torch.manual_seed(0)
    values = {**SaliencyConfig.preset("saliency-compact").to_dict(), **TINY, **changes}
    return SaliencyNet(SaliencyConfig.from_dict(values)).eval()


def reid_net(**changes: Any) -> ReIDNet:
    torch.manual_seed(0)
    values = {**ReIDConfig.preset("reid-compact").to_dict(), **TINY_REID, **changes}
    return ReIDNet(ReIDConfig.from_dict(values)).eval()


def batch(height: int, width: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    rgb = torch.randint(1, 256, (4, height, width, 3), generator=rng, dtype=torch.uint8)
    return rgb, torch.rand(4, height, width, 1, generator=rng)


@pytest.mark.parametrize(("make", "size"), [(saliency_net, (64, 64)), (reid_net, (32, 64))])
@pytest.mark.parametrize("gone", ["rgb", "aux"])
@torch.no_grad()
def test_a_stand_in_answers_for_a_missing_modality_alone(
    make: Any, size: tuple[int, int], gone: str
) -> None:
    network = make(stand_in=True)
    rgb, aux = batch(*size)
    whole = network(rgb, aux)
    missing = rgb if gone == "rgb" else aux
    missing[1] = 0
    before = network(rgb, aux)

    for name, parameter in network.named_parameters():
        if name.startswith(f"stand_in{'s' if make is saliency_net else ''}_{gone}"):
            parameter.add_(1.0)
    after = network(rgb, aux)

    kept = [0, 2, 3]
    torch.testing.assert_close(after[kept], whole[kept])
    assert (after[1] - before[1]).abs().max() > 1e-4


@torch.no_grad()
def test_without_a_stand_in_zeros_are_a_picture_as_any_other() -> None:
    network = saliency_net()
    rgb, aux = batch(64, 64)
    aux[1] = 0

    assert not any(name.startswith("stand_in") for name in network.state_dict())
    assert network(rgb, aux).isfinite().all()


def test_modalities_are_dropped_as_often_as_asked_and_never_both() -> None:
    torch.manual_seed(0)
    rgb = torch.full((4000, 1, 1, 3), 7, dtype=torch.uint8)
    aux = torch.ones(4000, 1, 1, 1)

    dark, flat = drop_modalities(rgb, aux, 0.3, 0.2)

    no_rgb, no_aux = ((x.flatten(1) == 0).all(dim=1) for x in (dark, flat))
    assert no_aux.float().mean() == pytest.approx(0.3, abs=0.03)
    assert no_rgb.float().mean() == pytest.approx(0.2 * 0.7, abs=0.03)
    assert not (no_rgb & no_aux).any()
    assert (dark.dtype, flat.dtype) == (torch.uint8, torch.float32)
    assert drop_modalities(rgb, aux, 0, 0)[0] is rgb


def test_stand_ins_are_added_to_a_network_trained_without_and_nothing_else_is(
    photos_root: Path, tmp_path: Path
) -> None:
    trained = saliency_net()
    file = tmp_path / "trained.safetensors"
    save_checkpoint(file, Checkpoint(config=trained.config, state=trained.state_dict()))
    recipe = SaliencyRecipe(
        data=DataRecipe("foregrounds", (photos_root,)),
        config={**TINY, "stand_in": True},
        start_from=file,
    )

    started = SaliencyTask(recipe).network.state_dict()

    kept = {name: value for name, value in started.items() if not name.startswith("stand_in")}
    assert len(started) - len(kept) == 8  # of two modalities at four levels
    torch.testing.assert_close(kept, dict(trained.state_dict()), rtol=0, atol=0)
    with pytest.raises(ValueError, match="embed_dim was 16, is now 32"):
        SaliencyTask(replace(recipe, config={**recipe.config, "embed_dim": 32}))


def test_training_with_dropped_modalities_moves_the_stand_ins_and_a_bundle_declares_it(
    photos_root: Path, tmp_path: Path
) -> None:
    recipe = SaliencyRecipe(
        data=DataRecipe("foregrounds", (photos_root,)),
        config={**TINY, "stand_in": True, "drop_path": 0.0},
        sizes=(64,),
        batch_size=8,
        steps=3,
        warmup_steps=1,
        validate_every=3,
        workers=0,
        ema_decay=0.5,
        drop_aux=0.4,
        drop_rgb=0.3,
    )
    task = SaliencyTask(recipe)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}

    fit(task, recipe, tmp_path / "run")

    after = task.network.state_dict()
    for name, value in after.items():
        if name.startswith("stand_ins"):
            assert not torch.equal(value, before[name]), name
    checkpoint = load_checkpoint(tmp_path / "run" / "last.safetensors")
    for index in range(2):
        write_triple(tmp_path / "one", f"{index}", index)
    judged = CliRunner().invoke(
        app,
        ["evaluate", "saliency", str(tmp_path / "run" / "last.safetensors"), "--conditions",
         "--flip", "--multi-scale", "--data", str(tmp_path / "one"), "--out", str(tmp_path)],
    )  # fmt: skip
    assert judged.exit_code == 0, judged.output
    metrics = json.loads((tmp_path / "scores.json").read_text())
    assert list(metrics) == ["one", "one, no depth", "one, no colour"]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", Options(metrics=metrics))
    assert bundle.manifest.modality_policy == "substitute"
    assert bundle.manifest.metrics == metrics
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"| one, no depth | {metrics['one, no depth']['s_measure']:.3f} |" in card
    rgb, aux, _ = load_canary(bundle)
    runtime = OnnxRuntime(bundle.model_path)
    answer = runtime.run(rgb, np.zeros_like(aux))
    with torch.no_grad():
        expected = checkpoint.build()(torch.from_numpy(rgb), torch.zeros(aux.shape))
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)
