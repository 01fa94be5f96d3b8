from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from model.backbone import CnnTokens
from model.checkpoint import load_checkpoint
from model.config import ReIDConfig
from model.reid import ReIDNet
from tests.training.crops import TEST, WRITERS
from training.__main__ import app
from training.data.reid_sets import Layout, find_trial
from training.evaluate import open_model
from training.evaluate_reid import (
    LEGEND,
    RIGHT,
    ROWS,
    TILE,
    WRONG,
    describe,
    evaluate_reid,
    reid_table,
)
from training.loop import fit
from training.losses import BatchHardTriplet, reid_loss
from training.recipe import ReIDDataRecipe, ReIDRecipe
from training.reid import ReIDTask

TINY = {
    "backbone": "test_efficientnet",
    "backbone_args": {},
    "input_size": [32, 64],
    "embed_dim": 16,
    "num_heads": 2,
    "drop_path": 0.2,
}
"""Drop path makes resuming depend on the generator of each step."""
TINY_VIT = {**TINY, "backbone": "test_vit", "trunk": "vit", "embed_dim": 64, "num_heads": 4}
EPOCH = 4
"""Steps that visit the 18 training identities, four in each."""


def recipe_for(root: Path, layout: Layout, **changes: Any) -> ReIDRecipe:
    values: dict[str, Any] = {
        "data": ReIDDataRecipe(layout, (root,)),
        "config": TINY,
        "sizes": (32,),
        "batch_size": 8,
        "instances": 2,
        "steps": 2 * EPOCH,
        "warmup_steps": 2,
        "validate_every": EPOCH,
        "save_every": 1,
        "workers": 0,
        "ema_decay": 0.7,
    }
    return ReIDRecipe(**{**values, **changes})


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    WRITERS["folders"](root)
    return root


@pytest.fixture(scope="session")
def checkpoint(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    recipe = recipe_for(folders, "folders")
    fit(ReIDTask(recipe), recipe, run)
    return run / "last.safetensors"


@pytest.mark.parametrize("layout", [name for name in WRITERS if name != "folders"])
def test_two_epochs_on_every_layout_leave_a_checkpoint(layout: Layout, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path / "data")
    recipe = recipe_for(tmp_path / "data", layout)

    results = fit(ReIDTask(recipe), recipe, tmp_path / "run")

    saved = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert isinstance(saved.config, ReIDConfig)
    assert saved.config.num_classes == 18
    assert saved.recipe == recipe.to_dict()
    assert set(results) >= {"mean_ap", "rank1", "rank5", "rank10", "minp", "score"}
    assert results["queries"] + results["skipped"] == (4 if layout == "vehicles" else 8)
    saved.build()


class StopsAt(ReIDTask):
    """Dies in the middle of a step, as a killed process would."""

    left = 3

    def loss(self, network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().loss(network, batch)


def test_a_run_that_died_and_resumed_ends_with_the_same_bits(
    folders: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(folders, "folders")
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(recipe), recipe, tmp_path)
    fit(ReIDTask(recipe), recipe, tmp_path, resume=True)

    whole, halves = (load_checkpoint(p).state for p in (checkpoint, tmp_path / "last.safetensors"))
    assert list(whole) == list(halves)
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name


def test_training_lowers_the_loss_and_leaves_the_necks_without_shift(
    folders: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(
        folders, "folders", steps=40, lr=1e-2, trunk_lr_scale=1.0, validate_every=40
    )
    task = ReIDTask(recipe)
    losses: list[float] = []
    plain = task.loss

    def recorded(network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = plain(network, batch)
        losses.append(float(loss.detach()))
        return loss, parts

    task.loss = recorded  # type: ignore[method-assign]
    fit(task, recipe, tmp_path)

    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    for name, value in task.network.state_dict().items():
        if name.startswith("necks") and name.endswith("norm.bias"):
            assert not value.any(), name


def test_validation_identities_are_never_drawn(folders: Path) -> None:
    task = ReIDTask(recipe_for(folders, "folders"))
    held_out = {crop.pid for crop in task.val_crops}

    assert len(held_out) == 2
    assert not held_out & {crop.pid for crops in task.train_set.by_identity for crop in crops}


def test_a_vit_with_cameras_trains(folders: Path, tmp_path: Path) -> None:
    config = {**TINY_VIT, "num_cameras": 2, "jigsaw": 2}
    recipe = recipe_for(folders, "folders", config=config, steps=2, lr=1e-2)
    task = ReIDTask(recipe)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}

    fit(task, recipe, tmp_path)

    after = task.network.state_dict()
    for name in ("cameras.weight", "trunk_rgb.trunk.pos_embed", "jigsaw.block.mlp.fc1.weight"):
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": TINY_VIT, "sizes": (32, 64)}, r"a vit trunk takes sizes \[32\] alone"),
        ({"config": {**TINY, "num_cameras": 5}}, "num_cameras is 5, the data has 2"),
        ({"batch_size": 64}, "takes 32 identities, but there are 18"),
    ],
)
def test_a_recipe_that_does_not_fit_its_data_is_refused(
    changes: dict[str, Any], message: str, folders: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        ReIDTask(recipe_for(folders, "folders", **changes))


def test_trunks_start_from_a_file_and_a_run_from_a_checkpoint_of_other_identities(
    folders: Path, checkpoint: Path, tmp_path: Path
) -> None:
    state = load_checkpoint(checkpoint).state
    prefix = "trunk_rgb.trunk."
    trunk = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    save_file(trunk, tmp_path / "trunk.safetensors")
    more = ReIDDataRecipe("folders", (folders,), val_share=0.3)

    of_trunk = ReIDTask(
        recipe_for(folders, "folders", trunk_weights=tmp_path / "trunk.safetensors")
    )
    of_run = ReIDTask(recipe_for(folders, "folders", start_from=checkpoint, data=more))

    for name, value in of_trunk.network.state_dict().items():
        if name.startswith("trunk_aux.trunk."):
            assert torch.equal(value, state[name.replace("aux", "rgb", 1)]), name
    for name, value in of_run.network.state_dict().items():
        assert torch.equal(value, state[name]) == ("classifier" not in name), name


def features(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, requires_grad=True)


@pytest.mark.parametrize("kind", ["hard", "soft_margin"])
def test_the_triplet_loss_is_that_of_the_hardest_partners(kind: Any) -> None:
    x = features([0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 4.0])
    identity = torch.tensor([0, 0, 1, 1])
    distance = np.linalg.norm(x.detach().numpy()[:, None] - x.detach().numpy()[None], axis=-1)
    positive = distance[range(4), [1, 0, 3, 2]]
    negative = np.array([min(distance[0, 2:]), min(distance[1, 2:]), min(distance[2, :2]),
                         min(distance[3, :2])])  # fmt: skip
    gap = positive - negative
    expected = np.log1p(np.exp(gap)) if kind == "soft_margin" else np.maximum(gap + 0.3, 0)

    loss = BatchHardTriplet(kind)(x, identity)

    assert float(loss.detach()) == pytest.approx(expected.mean(), rel=1e-5)


def test_every_part_is_pulled_by_both_losses() -> None:
    config = ReIDConfig.from_dict({**ReIDConfig.preset("reid-compact").to_dict(), **TINY})
    torch.manual_seed(0)
    network = ReIDNet(replace(config, num_classes=3))
    parts = network.parts(torch.randint(0, 255, (6, 32, 64, 3)).byte(), torch.rand(6, 32, 64, 1))
    for value in (*parts.features, *parts.logits):
        value.retain_grad()
    identity = torch.tensor([0, 0, 1, 1, 2, 2])

    loss, log = reid_loss(parts, identity, BatchHardTriplet("soft_margin"), smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]

    total = float(log["entropy"] + log["triplet"])
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    for value in (*parts.features, *parts.logits):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0
    right = torch.nn.functional.one_hot(identity, 3).bool()
    for logits in parts.logits:
        assert logits.grad is not None
        assert (logits.grad[right] < 0).all()


@pytest.mark.parametrize("layout", ["folders", "rgbnt201", "vehicles"])
def test_evaluation_writes_scores_and_a_sheet(
    layout: Layout, checkpoint: Path, tmp_path: Path
) -> None:
    WRITERS[layout](tmp_path / "data")
    runtime, size = open_model(checkpoint, "reid")
    trial = find_trial(tmp_path / "data", layout)

    report = evaluate_reid(
        runtime, trial, "test", size, tmp_path / "out", conditions=True, rerank=True
    )

    assert len(report) == 8
    assert all(("simulated NIR" in row) == (layout == "vehicles") for row in report)
    assert all(scores["queries"] >= len(TEST) for scores in report.values())
    assert len(reid_table(report).splitlines()) == 10
    assert describe(trial).startswith(f"query: {len(TEST)} identities")
    with Image.open(tmp_path / "out" / "test.png") as sheet:
        assert sheet.width == 11 * 102


class TileRuntime:
    """Answers the levels of the tiles, which tell the generated identities apart."""

    name, device = "tiles", "cpu"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        both = np.concatenate((rgb / 255, aux), axis=3)
        B, h, w, _ = both.shape
        tiles = both.reshape(B, 4, h // 4, 8, w // 8, 4).mean(axis=(2, 4))
        values = (tiles - tiles.mean(axis=(1, 2), keepdims=True)).reshape(B, -1)
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        result: NDArray[np.float32] = (values / lengths).astype(np.float32)
        return result

    def close(self) -> None: ...


def test_the_sheet_has_a_row_for_each_query_below_a_legend_of_its_frames(tmp_path: Path) -> None:
    WRITERS["rgbnt201"](tmp_path / "data")
    trial = find_trial(tmp_path / "data", "rgbnt201")

    evaluate_reid(TileRuntime(), trial, "test", (64, 32), tmp_path / "out")

    with Image.open(tmp_path / "out" / "test.png") as sheet:
        legend = sheet.crop((0, 0, sheet.width, LEGEND))
        rows, rest = divmod(sheet.height - LEGEND, 2 * TILE + 6)
    assert (rows, rest) == (min(ROWS, len(trial.query)), 0)
    assert {RIGHT, WRONG} <= {colour for _, colour in legend.getcolors(2**16) or ()}


def test_conditions_take_away_what_they_say(tmp_path: Path) -> None:
    WRITERS["rgbnt201"](tmp_path / "data")
    trial = find_trial(tmp_path / "data", "rgbnt201")
    seen: dict[bytes, int] = {}

    class Watching(TileRuntime):
        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            light = (bool((rgb > 100).any()), bool((rgb > 0).any()), bool((aux > 0).any()))
            seen[bytes(light)] = seen.get(bytes(light), 0) + len(rgb)
            return super().run(rgb, aux)

    report = evaluate_reid(Watching(), trial, "t", (64, 64), tmp_path, conditions=True)

    # Bright, there at all, near-infrared: clean, dark, no NIR, no RGB.
    kinds = [(True, True, True), (False, True, True), (True, True, False), (False, False, True)]
    assert seen == {bytes(kind): len(trial.query) for kind in kinds}
    assert report["t"]["rank1"] == report["t"]["mean_ap"] == 1
    assert report["t, dark RGB"]["rank1"] == report["t, no RGB in the query"]["rank1"] == 1


def test_the_command_prints_counts_and_scores(checkpoint: Path, tmp_path: Path) -> None:
    WRITERS["vehicles"](tmp_path / "data")
    data = ["--data", str(tmp_path / "data"), "--layout", "vehicles"]

    result = CliRunner().invoke(
        app, ["evaluate", "reid", str(checkpoint), *data, "--out", str(tmp_path / "out")]
    )

    assert result.exit_code == 0, result.output
    assert "query: 5 identities, 5 images, 1 cameras" in result.output
    assert "| data, simulated NIR | 5 | 0 |" in result.output
    assert (tmp_path / "out" / "scores.json").is_file()


def test_the_command_names_a_layout_that_it_does_not_know(checkpoint: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path), "--layout", "market"]

    result = CliRunner().invoke(
        app, ["evaluate", "reid", str(checkpoint), *data, "--out", str(tmp_path)]
    )

    assert result.exit_code == 2
    assert "unknown layout 'market'; known: rgbn300" in result.stderr


def test_weights_are_downloaded_only_where_the_recipe_says_so(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(CnnTokens, "load_pretrained", lambda _, name: asked.append(name))

    ReIDTask(recipe_for(folders, "folders"))
    assert not asked
    ReIDTask(recipe_for(folders, "folders", pretrained=True))
    assert asked == ["test_efficientnet"] * 2


def test_a_model_of_the_other_task_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="is a reid checkpoint"):
        open_model(checkpoint, "saliency")


@pytest.mark.slow  # half a minute
def test_vit_base_answers_and_learns_once() -> None:
    torch.manual_seed(0)
    network = ReIDNet(replace(ReIDConfig.preset("reid-vit-base"), num_classes=4)).train()
    rgb = torch.randint(0, 256, (4, 256, 256, 3), dtype=torch.uint8)

    parts = network.parts(rgb, torch.rand(4, 256, 256, 1))
    loss, _ = reid_loss(parts, torch.tensor([0, 0, 1, 1]), BatchHardTriplet("soft_margin"))
    loss.backward()  # type: ignore[no-untyped-call]

    assert [x.shape for x in parts.features] == [(4, 768)] * 3
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
