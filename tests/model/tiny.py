"""Small networks and pairs for them; weights are random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.config import ReIDConfig, SaliencyConfig
from model.saliency import SaliencyNet

SIDE = 64
"""Height and width of the input in pixels."""

TINY_REID = ReIDConfig(
    name="tiny",
    backbone="test_efficientnet",
    backbone_args={},
    trunk="cnn",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    input_size=(64, 32),
    embed_dim=16,
    num_heads=2,
)
TINY_VIT = replace(TINY_REID, backbone="test_vit", trunk="vit", embed_dim=64, num_heads=4)


def tiny_config(**changes: Any) -> SaliencyConfig:
    """Two blocks, 32 channels, a trunk that timm made for tests (0.1 M parameters)."""
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": "test_efficientnet",
        "backbone_args": {},
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "input_size": (SIDE, SIDE),
        "embed_dim": 32,
        "num_heads": 2,
        "decoder": "light",
        "decoder_dim": 16,
    }
    return SaliencyConfig(**{**values, **changes})


def tiny_network(seed: int = 0, **changes: Any) -> SaliencyNet:
    """In evaluation mode, with statistics of batch normalisation that are not the identity."""
    torch.manual_seed(seed)
    network = SaliencyNet(tiny_config(**changes))
    with torch.no_grad():
        network.train()(*tiny_pair(4))
    return network.eval()


def tiny_pair(B: int = 2, seed: int = 0, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """`rgb` uint8 (B, side, side, 3) and `aux` float32 (B, side, side, 1), noise."""
    rng = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (B, side, side, 3), dtype=torch.uint8, generator=rng)
    return rgb, torch.rand(B, side, side, 1, generator=rng)
