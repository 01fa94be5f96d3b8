from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.inputs import parity_pairs
from export.pack import Conversion, Options, convert, with_float16_weights, write_bundle
from model.bundle import Bundle
from model.checkpoint import Checkpoint
from model.saliency import SaliencyNet
from tests.model.tiny import SIDE, tiny_config, tiny_network


@torch.no_grad()
def _spread(network: SaliencyNet) -> None:
    """Scale the last layer, so that answers cover 0 to 1: errors must not hide in a flat map."""
    rgb, aux = (torch.from_numpy(each) for each in parity_pairs((SIDE, SIDE)))
    logits = network.logits(rgb, aux, supervise=False).maps[0]
    head = network.get_submodule("decoder.heads.0")
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    scale = 2 / logits.std()
    head.weight *= scale
    head.bias.copy_(scale * (head.bias - logits.mean()))


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    network = tiny_network()
    _spread(network)
    return Checkpoint(
        config=tiny_config(),
        state=network.state_dict(),
        recipe={
            "preset": "tiny",
            "steps": 7,
            "sizes": [64, 96],
            "data": {
                "source": "foregrounds",
                "roots": ["/somewhere/private/photos", "more"],
                "backgrounds": "../landscapes",
            },
            "trunk_weights": "../weights/trunk.safetensors",
        },
        metrics={"s_measure": 0.5, "mae": 0.25},
        commit="0123456789ab",
        licence="None: random weights.",
    )


@pytest.fixture(scope="session")
def conversion(checkpoint: Checkpoint) -> Conversion:
    """Slow, so made once."""
    return convert(checkpoint, Options())


@pytest.fixture(scope="session")
def conversion_float16(conversion: Conversion) -> Conversion:
    return with_float16_weights(conversion)


@pytest.fixture(scope="session")
def bundle(
    checkpoint: Checkpoint, conversion: Conversion, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    out = tmp_path_factory.mktemp("float32") / "tiny"
    return write_bundle(checkpoint, conversion, out, Options())


@pytest.fixture(scope="session")
def bundle_float16(
    checkpoint: Checkpoint, conversion_float16: Conversion, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("float16")
    options = Options(weights="float16")
    return write_bundle(checkpoint, conversion_float16, folder / "tiny", options)
