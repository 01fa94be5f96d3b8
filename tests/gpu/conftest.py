from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.pack import Conversion, Options, convert, with_precision, write_bundle
from export.precision import Low
from model.bundle import Bundle
from model.checkpoint import Checkpoint
from model.reid import ReIDNet
from tests.model.tiny import TINY_VIT, tiny_config, tiny_network

Batch = tuple[NDArray[np.uint8], NDArray[np.float32]]


def _checkpoint(task: str) -> Checkpoint:
    if task == "saliency":
        return Checkpoint(tiny_config(), tiny_network().state_dict())
    return Checkpoint(TINY_VIT, ReIDNet(TINY_VIT).state_dict())


@pytest.fixture(scope="session", params=["saliency", "reid"])
def task(request: pytest.FixtureRequest) -> tuple[Checkpoint, Conversion]:
    """A tiny network of each task, converted once."""
    checkpoint = _checkpoint(request.param)
    return checkpoint, convert(checkpoint, Options())


@pytest.fixture(scope="session", params=["fp32", "fp16", "bf16"])
def bundle(
    request: pytest.FixtureRequest,
    task: tuple[Checkpoint, Conversion],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    checkpoint, conversion = task
    precision = request.param
    out: Path = tmp_path_factory.mktemp(precision) / checkpoint.config.name
    if precision != "fp32":
        low: Low = precision
        conversion = with_precision(conversion, low)
    return write_bundle(checkpoint, conversion, out, Options(precision=precision))
