"""Checkpoints: one `.safetensors` file with its configuration and origin in the metadata."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import CONFIGS, Config, ReIDConfig, Task
from model.reid import ReIDNet
from model.saliency import SaliencyNet

FORMAT = "mutualformer-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to rebuild a network and to say where it comes from."""

    config: Config
    """The architecture; its class tells the task."""
    state: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    """The training recipe, as plain values."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Measured when it was written."""
    commit: str = ""
    """Source commit of the training code, `-dirty` if it was changed."""
    licence: str = ""
    """Terms of the weights and what they were trained on."""

    @property
    def task(self) -> Task:
        """`saliency` or `reid`."""
        return self.config.task

    def build(self) -> nn.Module:
        """The network with these weights, in evaluation mode.

        Raises:
            ValueError: a parameter is missing, unknown or misshapen; the message names it.
        """
        network = (
            ReIDNet(self.config)
            if isinstance(self.config, ReIDConfig)
            else SaliencyNet(self.config)
        )
        try:
            network.load_state_dict(self.state, strict=True)
        except RuntimeError as error:
            raise ValueError(f"weights do not fit {self.config.name!r}: {error}") from error
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a reader sees the old file or the whole new one.

    A tensor with several names, as in a trunk that both modalities share, is written once.
    """
    shared = _shared(checkpoint.state)
    metadata = {
        "format": FORMAT,
        "task": checkpoint.task,
        "config": json.dumps(checkpoint.config.to_dict()),
        "recipe": json.dumps(checkpoint.recipe),
        "metrics": json.dumps(checkpoint.metrics),
        "commit": checkpoint.commit,
        "licence": checkpoint.licence,
        "shared": json.dumps(shared),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().cpu().contiguous()
        for key, value in checkpoint.state.items()
        if key not in shared
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        save_file(state, temporary, metadata)
        temporary.chmod(0o644)  # the library makes it readable by its owner alone
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def _shared(state: dict[str, Tensor]) -> dict[str, str]:
    """Each further name of a tensor, and its first."""
    first: dict[tuple[object, ...], str] = {}
    shared = {}
    for key, value in state.items():
        tensor = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if first.setdefault(tensor, key) != key:
            shared[key] = first[tensor]
    return shared


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ValueError: not a checkpoint of this project, or its configuration has unknown keys.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is not a {FORMAT} file")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no iterator
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read checkpoint {path}: {error}") from error
    for key, written in json.loads(metadata.get("shared", "{}")).items():
        state[key] = state[written]
    task = metadata["task"]
    if task not in CONFIGS:
        raise ValueError(f"{path}: unknown task {task!r}; known: {', '.join(CONFIGS)}")
    return Checkpoint(
        config=CONFIGS[task].from_dict(json.loads(metadata["config"])),
        state=state,
        recipe=json.loads(metadata["recipe"]),
        metrics=json.loads(metadata["metrics"]),
        commit=metadata["commit"],
        licence=metadata["licence"],
    )


def average_checkpoints(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The mean of the weights of runs that started from one another.

    Such a mean often does better than each of them: Wortsman et al., "Model soups", ICML 2022.

    Args:
        checkpoints: of one configuration; recipe and licence are the last one's.

    Returns:
        A checkpoint without metrics: nothing was measured on it yet.

    Raises:
        ValueError: there are none, or their configurations differ.
    """
    if not checkpoints:
        raise ValueError("nothing to average")
    last = checkpoints[-1]
    if any(checkpoint.config != last.config for checkpoint in checkpoints):
        raise ValueError("only checkpoints of one configuration can be averaged")
    state = {
        key: torch.stack([each.state[key].double() for each in checkpoints]).mean(0).to(value.dtype)
        for key, value in last.state.items()
    }
    return replace(last, state=state, metrics={}, commit=source_commit())


@cache
def source_commit() -> str:
    """Commit of this software, `-dirty` if it was changed, `unknown` outside a checkout.

    As it was when first asked for: what is committed during a run is not what runs.
    """
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def load_published_block(state: dict[str, Tensor], block: nn.Module) -> None:
    """Load weights of the published block into a `MutualFormerBlock`.

    Args:
        state: in the published names, with or without one common prefix such as `blocks.0.`.
        block: of the same width.

    Raises:
        ValueError: a parameter is missing, unknown or misshapen; the message names it.
    """
    anchor = "norm1_rd.weight"
    prefixes = {key.removesuffix(anchor) for key in state if key.endswith(anchor)}
    if len(prefixes) != 1:
        raise ValueError(f"expected the weights of one block, found {len(prefixes)}")
    prefix = prefixes.pop()
    try:
        block.load_state_dict({key.removeprefix(prefix): state[key] for key in state}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the block: {error}") from error
