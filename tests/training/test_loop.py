from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import load_checkpoint
from tests.training.steady_norms import SteadyNorms
from training.data import sample
from training.loop import Interrupted, fit
from training.recipe import DataRecipe, Recipe, SaliencyRecipe
from training.saliency import SaliencyTask

TINY = {
    "backbone": "test_efficientnet",
    "backbone_args": {},
    "input_size": [64, 64],
    "embed_dim": 16,
    "num_heads": 2,
    "decoder_dim": 16,
    "drop_path": 0.2,
}
"""Drop path makes resuming depend on the generator of each step."""


@pytest.fixture
def recipe(photos_root: Path, backgrounds_root: Path) -> SaliencyRecipe:
    return SaliencyRecipe(
        data=DataRecipe("foregrounds", (photos_root,), backgrounds=backgrounds_root),
        config=TINY,
        sizes=(32, 64),
        batch_size=4,
        steps=6,
        warmup_steps=2,
        validate_every=3,
        save_every=1,
        workers=0,
        ema_decay=0.7,
    )


def train(recipe: SaliencyRecipe, run: Path, **options: Any) -> dict[str, float]:
    return fit(SaliencyTask(recipe), recipe, run, **options)


class StopsAt(SaliencyTask):
    """Dies in the middle of a step, as a killed process would."""

    def __init__(self, recipe: SaliencyRecipe, step: int) -> None:
        super().__init__(recipe)
        self.left = step

    def loss(self, network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().loss(network, batch)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one).state, load_checkpoint(other).state
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_that_died_and_resumed_ends_with_the_same_bits(
    recipe: SaliencyRecipe, tmp_path: Path, step: int
) -> None:
    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(recipe, step), recipe, tmp_path / "halves")
    train(recipe, tmp_path / "halves", resume=True)

    assert_same_weights(
        tmp_path / "whole" / "last.safetensors", tmp_path / "halves" / "last.safetensors"
    )


def test_a_killed_process_resumes_with_the_same_bits(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    longer = replace(recipe, steps=12, workers=1)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(longer.to_dict()))
    command = [sys.executable, "-m", "training", "train", str(file), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    process = subprocess.Popen([*command, str(tmp_path / "halves")], cwd=root, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "halves" / "state.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "halves" / "log.jsonl").exists() or _steps(tmp_path / "halves") < 12

    for run, options in (("halves", ["--resume"]), ("whole", [])):
        subprocess.run(
            [*command, str(tmp_path / run), *options], check=True, cwd=root, env=environment
        )

    assert_same_weights(
        tmp_path / "whole" / "last.safetensors", tmp_path / "halves" / "last.safetensors"
    )


STEADY = {"drop_path": 0.0, "input_size": [64, 64]}
"""What is drawn for the whole batch may not decide, so nothing is drawn."""


def steady(recipe: SaliencyRecipe, **changes: Any) -> SaliencyRecipe:
    """Batches of four, split in one way or another; plain descent shows gradients as they are."""
    return replace(
        recipe,
        config={**TINY, **STEADY},
        precision="32-true",
        optimiser="sgd",
        lr=0.1,
        steps=3,
        validate_every=3,
        **changes,
    )


def assert_close_weights(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(run / "last.safetensors").state for run in (one, other))
    recipe = Recipe.load(one / "recipe.yaml")
    assert isinstance(recipe, SaliencyRecipe)
    start = SaliencyTask(recipe).network.state_dict()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=2e-6, msg=name)
    moved = [float((value - start[name]).abs().max()) for name, value in first.items()]
    assert max(moved) > 1e-3


@pytest.fixture
def whole(recipe: SaliencyRecipe, tmp_path: Path) -> Path:
    """A run on whole batches."""
    chosen = steady(recipe)
    fit(SteadyNorms(chosen), chosen, tmp_path / "whole")
    return tmp_path / "whole"


def test_accumulated_halves_are_the_whole_batch(
    recipe: SaliencyRecipe, whole: Path, tmp_path: Path
) -> None:
    halves = steady(recipe, batch_size=2, accumulate=2)

    results = fit(SteadyNorms(halves), halves, tmp_path / "halves")

    assert_close_weights(whole, tmp_path / "halves")
    assert results["images_per_s"] > 0


def test_two_processes_are_one_with_the_doubled_batch(
    recipe: SaliencyRecipe, whole: Path, tmp_path: Path
) -> None:
    halves = steady(recipe, batch_size=2, processes=2)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(halves.to_dict()))

    subprocess.run(
        [sys.executable, "-m", "tests.training.steady_norms", str(file), str(tmp_path / "halves")],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )

    assert_close_weights(whole, tmp_path / "halves")
    assert origins(tmp_path / "halves")[0]["processes"] == 2


def test_two_nodes_are_one_with_the_doubled_batch(
    recipe: SaliencyRecipe, whole: Path, tmp_path: Path
) -> None:
    halves = steady(recipe, batch_size=2)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(halves.to_dict()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--master-addr=127.0.0.1", f"--master-port={port}"),
    ]
    script = ["-m", "tests.training.steady_norms", str(file), str(tmp_path / "halves")]

    nodes = [
        subprocess.Popen(
            [*command, f"--node-rank={rank}", *script],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]

    try:
        assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    assert_close_weights(whole, tmp_path / "halves")
    assert origins(tmp_path / "halves")[0]["processes"] == 2


def test_a_run_that_accumulates_resumes_with_the_same_bits(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    chosen = replace(recipe, batch_size=2, accumulate=2, drop_aux=0.3, drop_rgb=0.2)
    train(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(chosen, 7), chosen, tmp_path / "halves")  # within the fourth step
    train(chosen, tmp_path / "halves", resume=True)

    assert_same_weights(
        tmp_path / "whole" / "last.safetensors", tmp_path / "halves" / "last.safetensors"
    )


def test_a_state_that_was_cut_off_while_written_is_not_the_one_that_loads(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(recipe, 5), recipe, tmp_path / "halves")
    good = (tmp_path / "halves" / "state.pt").read_bytes()
    (tmp_path / "halves" / "state.tmp").write_bytes(good[: len(good) // 2])

    train(recipe, tmp_path / "halves", resume=True)

    assert _steps(tmp_path / "halves") == 6
    assert not (tmp_path / "halves" / "state.tmp").exists()


def test_what_will_be_done_again_is_not_in_the_log_twice(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    rare = replace(recipe, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(rare, 3), rare, tmp_path)  # validated after step 3, saved after 2
    train(rare, tmp_path, resume=True)

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


def origins(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "origin.jsonl").read_text().splitlines()]


def test_every_start_of_a_run_notes_what_it_starts_with(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(StopsAt(recipe, 4), recipe, tmp_path)
    train(recipe, tmp_path, resume=True)

    first, second = origins(tmp_path)
    assert (first["step"], second["step"], first["seed"]) == (0, 4, 0)
    assert first["versions"]["torch"] == torch.__version__.split("+")[0]
    assert first["commit"]
    assert first["data"] == {"train": 8, "validation": 4, "depth": {"simulated": 8}}


@pytest.mark.slow  # a compiler runs for a minute
def test_compiled_kernels_learn_the_same(recipe: SaliencyRecipe, whole: Path) -> None:
    compiled = steady(recipe, compile=True)

    fit(SteadyNorms(compiled), compiled, whole.parent / "compiled")

    first, second = (
        load_checkpoint(run / "last.safetensors").state
        for run in (whole, whole.parent / "compiled")
    )
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-3, msg=name)


def _steps(run: Path) -> int:
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    return int(last["step"])


def test_workers_inherit_no_locks_of_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = cv2.getNumThreads()
    seen: list[int] = []
    monkeypatch.setattr(sample, "DataLoader", lambda *_, **__: seen.append(cv2.getNumThreads()))
    try:
        cv2.setNumThreads(2)
        sample.loader([], sample.Steps(0, 1, 1), list, workers=1)
    finally:
        cv2.setNumThreads(threads)

    assert seen == [1]


def test_a_signal_saves_the_state_and_stops(recipe: SaliencyRecipe, tmp_path: Path) -> None:
    class Signalled(SaliencyTask):
        def loss(self, network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(network, batch)

    rare = replace(recipe, save_every=1000)

    with pytest.raises(Interrupted, match="step 1 of 6"):
        fit(Signalled(rare), rare, tmp_path)

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 1


def test_training_lowers_the_loss_and_leaves_frozen_weights_alone(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    longer = replace(recipe, steps=60, lr=3e-3, frozen=("trunk_rgb.trunk.conv_stem",))
    task = SaliencyTask(longer)
    before = {k: v.clone() for k, v in task.network.state_dict().items()}
    losses: list[float] = []
    plain = task.loss

    def recorded(network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = plain(network, batch)
        losses.append(float(loss.detach()))
        return loss, parts

    task.loss = recorded  # type: ignore[method-assign]
    fit(task, longer, tmp_path)

    after = task.network.state_dict()
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert torch.equal(after["trunk_rgb.trunk.conv_stem.weight"],
                       before["trunk_rgb.trunk.conv_stem.weight"])  # fmt: skip
    assert not torch.equal(
        after["trunk_aux.trunk.conv_stem.weight"], before["trunk_aux.trunk.conv_stem.weight"]
    )


def test_only_trunks_are_moved_back_towards_their_first_weights(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    train(recipe, tmp_path / "first")
    trained = tmp_path / "first" / "last.safetensors"
    state = load_checkpoint(trained).state
    trunk = {
        name.removeprefix("trunk_rgb.trunk."): torch.zeros_like(value)
        for name, value in state.items()
        if name.startswith("trunk_rgb.trunk.")
    }
    save_file(trunk, tmp_path / "zeros.safetensors")

    task = SaliencyTask(
        replace(
            recipe,
            start_from=trained,
            trunk_weights=tmp_path / "zeros.safetensors",
            trunk_blend=0.25,
        )
    )

    for name, value in task.network.state_dict().items():
        share = 0.75 if name.startswith("trunk") and value.is_floating_point() else 1.0
        torch.testing.assert_close(value, share * state[name], check_dtype=False)


def test_a_run_leaves_its_recipe_scores_and_checkpoint(
    recipe: SaliencyRecipe, tmp_path: Path
) -> None:
    results = train(recipe, tmp_path)

    checkpoint = load_checkpoint(tmp_path / "best.safetensors")
    written = Recipe.from_dict(yaml.safe_load((tmp_path / "recipe.yaml").read_text()))
    assert written == Recipe.from_dict(recipe.to_dict())
    assert checkpoint.recipe == recipe.to_dict()
    assert checkpoint.config.embed_dim == 16
    assert set(checkpoint.metrics) >= {"s_measure", "mae", "max_f", "max_e"}
    assert _steps(tmp_path) == 6
    assert results["images_per_s"] > 0
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_folder_with_a_run_is_not_overwritten(recipe: SaliencyRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path)

    with pytest.raises(ValueError, match="holds a run already"):
        train(recipe, tmp_path)


def test_resuming_with_another_recipe_is_refused(recipe: SaliencyRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path)

    with pytest.raises(ValueError, match=r"the recipe differs .*: lr was .*, is now 1\.0$"):
        train(replace(recipe, lr=1.0), tmp_path, resume=True)


def test_resuming_nothing_is_refused(recipe: SaliencyRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        train(recipe, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(recipe: SaliencyRecipe, tmp_path: Path) -> None:
    class Broken(SaliencyTask):
        def loss(self, network: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = super().loss(network, batch)
            return loss * float("nan"), parts

    with pytest.raises(FloatingPointError, match="step 1"):
        fit(Broken(recipe), recipe, tmp_path)
