from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import model.checkpoint
from model.checkpoint import (
    FORMAT,
    Checkpoint,
    average_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from model.saliency import SaliencyNet
from tests.model.test_reid import network
from tests.model.tiny import TINY_REID as TINY
from tests.model.tiny import tiny_config


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        config=tiny_config(),
        state=SaliencyNet(tiny_config()).state_dict(),
        recipe={"steps": 3, "data": {"source": "triples", "sizes": [64]}},
        metrics={"s_measure": 0.5},
        commit="0123456789ab-dirty",
        licence="none: random weights",
    )


def rewrite(path: Path, **metadata: str) -> None:
    """Change entries of a checkpoint's metadata."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no iterator
        entries = {**file.metadata(), **metadata}
    save_file(state, path, entries)


def test_a_checkpoint_reads_back_as_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new folder" / "x.safetensors", checkpoint)

    read = load_checkpoint(tmp_path / "new folder" / "x.safetensors")

    assert replace(read, state={}) == replace(checkpoint, state={})
    torch.testing.assert_close(read.state, dict(checkpoint.state), rtol=0, atol=0)


@torch.no_grad()
def test_a_shared_trunk_is_written_once_and_reads_back_whole(tmp_path: Path) -> None:
    sizes = {}
    for shared in (False, True):
        config = replace(TINY, shared_trunk=shared)
        state = network(config).state_dict()
        save_checkpoint(tmp_path / "x.safetensors", Checkpoint(config=config, state=state))
        sizes[shared] = (tmp_path / "x.safetensors").stat().st_size

    read = load_checkpoint(tmp_path / "x.safetensors")

    torch.testing.assert_close(read.state, dict(state), rtol=0, atol=0)
    read.build()
    trunk = sum(v.nbytes for key, v in state.items() if key.startswith("trunk_rgb."))
    assert sizes[False] - sizes[True] > 0.9 * trunk  # names and their listing weigh something


@torch.no_grad()
def test_the_rebuilt_network_answers_the_same(checkpoint: Checkpoint, tmp_path: Path) -> None:
    original = SaliencyNet(tiny_config()).eval()
    original.load_state_dict(checkpoint.state)
    rgb = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    aux = torch.rand(1, 64, 64, 1)
    save_checkpoint(tmp_path / "x.safetensors", checkpoint)

    rebuilt = load_checkpoint(tmp_path / "x.safetensors").build()

    assert not rebuilt.training
    torch.testing.assert_close(rebuilt(rgb, aux), original(rgb, aux), rtol=0, atol=0)


def test_layouts_of_memory_do_not_matter(checkpoint: Checkpoint, tmp_path: Path) -> None:
    network = SaliencyNet(tiny_config()).to(memory_format=torch.channels_last)
    changed = replace(checkpoint, state=network.state_dict())

    save_checkpoint(tmp_path / "x.safetensors", changed)

    read = load_checkpoint(tmp_path / "x.safetensors")
    torch.testing.assert_close(read.state, dict(changed.state), rtol=0, atol=0)


def test_an_interrupted_write_leaves_the_old_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint)

    def full_disk(_state: object, file: Path, _metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(model.checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, replace(checkpoint, commit="new"))

    assert load_checkpoint(path).commit == checkpoint.commit
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_configuration_key_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint)
    rewrite(path, config=json.dumps({**checkpoint.config.to_dict(), "wings": 2}))

    with pytest.raises(ValueError, match="wings"):
        load_checkpoint(path)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(2)}, path)

    with pytest.raises(ValueError, match=f"x.safetensors is not a {FORMAT} file"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1})])
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"cannot read checkpoint .*x\.safetensors"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read checkpoint .*absent\.safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_a_cut_file_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ValueError, match="cannot read checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen"])
def test_parameters_that_do_not_fit_are_named(checkpoint: Checkpoint, fault: str) -> None:
    state = dict(checkpoint.state)
    name = "decoder.heads.0.weight"
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        name = "decoder.heads.9.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(1)

    with pytest.raises(ValueError, match=name):
        replace(checkpoint, state=state).build()


def test_the_average_of_two_runs_lies_between_them(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, state={k: v + 2 for k, v in checkpoint.state.items()})

    mean = average_checkpoints([checkpoint, other])

    expected = {key: value + 1 for key, value in checkpoint.state.items()}
    torch.testing.assert_close(mean.state, expected)
    assert mean.metrics == {}
    mean.build()


def test_runs_of_different_networks_have_no_average(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, config=replace(tiny_config(), alpha=0.5))

    with pytest.raises(ValueError, match="one configuration"):
        average_checkpoints([checkpoint, other])
