from __future__ import annotations

import json
from typing import Any

import pytest

from model.config import SaliencyConfig


@pytest.mark.parametrize("name", SaliencyConfig.presets)
def test_a_preset_survives_json(name: str) -> None:
    config = SaliencyConfig.preset(name)

    read = SaliencyConfig.from_dict(json.loads(json.dumps(config.to_dict())))

    assert read == config
    assert read.name == name


def test_an_unknown_preset_is_named_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"'saliency-huge'; known: saliency-compact, saliency-com"):
        SaliencyConfig.preset("saliency-huge")


def test_unknown_keys_are_named() -> None:
    values = {**SaliencyConfig.preset("saliency-compact").to_dict(), "colour": 1, "width": 2}

    with pytest.raises(ValueError, match="unknown configuration keys: colour, width"):
        SaliencyConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 100, "num_heads": 8}, "num_heads must divide embed_dim, got 8 and 100"),
        ({"fusion_strides": (2, 16)}, r"fusion_strides must be among .*, got \[2\]"),
        ({"input_size": (320, 300)}, r"input_size must be multiples of 32, got \(320, 300\)"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    values = {**SaliencyConfig.preset("saliency-compact").to_dict(), **change}

    with pytest.raises(ValueError, match=message):
        SaliencyConfig.from_dict(values)
