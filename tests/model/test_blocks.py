from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from model.blocks import DropPath, MutualFormerBlock
from model.checkpoint import load_published_block
from model.config import Fusion, Implementation
from model.kernels.dispatch import interpreted

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared" / "golden"
GOLDEN = {
    "block_dim64_heads8_tokens100": COMMITTED,
    "block_dim96_heads3_tokens33_qkvbias": SHARED,
    **{path.stem: SHARED for path in sorted(SHARED.glob("*.npz"))},
    **{path.stem: COMMITTED for path in sorted(COMMITTED.glob("block_*.npz"))},
}
"""Folder of every recorded block of the published code."""


def load_golden(name: str) -> dict[str, Tensor]:
    path = GOLDEN[name] / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def published_weights(golden: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {
        prefix + key.removeprefix("weight."): value
        for key, value in golden.items()
        if key.startswith("weight.")
    }


def load_block(
    golden: dict[str, Tensor], prefix: str = "", implementation: Implementation = "auto"
) -> MutualFormerBlock:
    weights = published_weights(golden, prefix)
    heads = int(golden["meta"][1])
    dim = golden["input.xrd"].shape[-1]
    qkv_bias = f"{prefix}attn.qkv.bias" in weights
    block = MutualFormerBlock(dim, heads, qkv_bias=qkv_bias, implementation=implementation).eval()
    load_published_block(weights, block)
    return block


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def tiny_block(**options: Any) -> MutualFormerBlock:
    torch.manual_seed(0)
    return MutualFormerBlock(8, 2, **options)


def tokens(B: int = 3, N: int = 5, dim: int = 8) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(B, N, dim * 2, generator=rng), torch.randn(B, N, dim, generator=rng)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("implementation", ["auto", "plain", "blocked", "sdpa", "triton"])
@torch.no_grad()
def test_published_weights_give_the_published_output(
    name: str, implementation: Implementation
) -> None:
    if implementation == "triton" and not interpreted():
        pytest.skip("on a CPU, Triton's interpreter runs it")
    golden = load_golden(name)
    block = load_block(golden, implementation=implementation)

    output = block(golden["input.x"], golden["input.xrd"])

    assert relative_error(output, golden["output"]) < 1e-5


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_published_weights_give_the_published_attention(name: str) -> None:
    golden = load_golden(name)
    block = load_block(golden)

    update = block.attn(block.norm1(golden["input.x"]), block.norm1_rd(golden["input.xrd"]))

    assert relative_error(update, golden["attention_output"]) < 1e-5


@pytest.mark.parametrize("change", ["swapped modalities", "paper form"])
@torch.no_grad()
def test_golden_values_tell_forms_and_modalities_apart(change: str) -> None:
    golden = load_golden("block_dim64_heads8_tokens100")
    block = load_block(golden)
    pair = golden["input.x"]
    if change == "paper form":
        block.attn.form = "paper"
    else:
        pair = torch.cat(pair.chunk(2, dim=-1)[::-1], dim=-1)

    output = block(pair, golden["input.xrd"])

    assert relative_error(output, golden["output"]) > 1e-3


def test_published_weights_load_under_a_prefix() -> None:
    golden = load_golden("block_dim64_heads8_tokens100")

    plain, prefixed = load_block(golden), load_block(golden, prefix="module.blocks.0.")

    torch.testing.assert_close(plain.state_dict(), prefixed.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("attn.proj_rd.weight"), "attn.proj_rd.weight"),
        (lambda weights: weights.update({"attn.extra": torch.zeros(1)}), "attn.extra"),
        (lambda weights: weights.update({"mlp.fc1.bias": torch.zeros(3)}), "mlp.fc1.bias"),
        (lambda weights: weights.pop("norm1_rd.weight"), "found 0"),
        (lambda weights: weights.update({"1.norm1_rd.weight": torch.zeros(64)}), "found 2"),
    ],
    ids=["missing", "unknown", "misshapen", "no block", "two blocks"],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str) -> None:
    weights = published_weights(load_golden("block_dim64_heads8_tokens100"))
    change(weights)

    with pytest.raises(ValueError, match=message):
        load_published_block(weights, MutualFormerBlock(64, 8))


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_fusion_trains_every_parameter(fusion: Fusion) -> None:
    block = tiny_block(fusion=fusion, qkv_bias=True)
    pair, fused = tokens()

    output = block(pair, fused)
    output.square().sum().backward()

    assert output.shape == fused.shape
    untouched = [
        name
        for name, parameter in block.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


def test_every_fusion_has_the_same_parameters() -> None:
    shapes = [
        {name: p.shape for name, p in tiny_block(fusion=fusion).named_parameters()}
        for fusion in get_args(Fusion)
    ]

    assert all(each == shapes[0] for each in shapes)


@pytest.mark.parametrize("fusion", get_args(Fusion))
@torch.no_grad()
def test_the_implementation_does_not_change_the_answer(fusion: Fusion) -> None:
    plain = tiny_block(fusion=fusion, implementation="plain")(*tokens())

    for implementation in ("auto", "blocked", "sdpa"):
        other = tiny_block(fusion=fusion, implementation=implementation)(*tokens())
        torch.testing.assert_close(other, plain)


@torch.no_grad()
def test_every_fusion_answers_differently() -> None:
    outputs = [tiny_block(fusion=fusion).eval()(*tokens()) for fusion in get_args(Fusion)]

    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", get_args(Fusion))
@torch.no_grad()
def test_every_stream_reaches_the_output(fusion: Fusion) -> None:
    block = tiny_block(fusion=fusion).eval()
    pair, fused = tokens()
    rgb, aux = pair.chunk(2, dim=-1)
    before = block(pair, fused)

    changed = {
        "rgb": block(torch.cat((rgb.flip(0), aux), dim=-1), fused),
        "aux": block(torch.cat((rgb, aux.flip(0)), dim=-1), fused),
        "fused": block(pair, fused.flip(0)),
    }

    for name, after in changed.items():
        assert (after - before).abs().max() > 1e-4, name


@torch.no_grad()
def test_drop_path_is_off_in_evaluation() -> None:
    dropping, plain = tiny_block(drop_path=0.9).eval(), tiny_block().eval()

    torch.testing.assert_close(dropping(*tokens()), plain(*tokens()), rtol=0, atol=0)


@torch.no_grad()
def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()

    out = drop(torch.ones(4000, 2, 3))

    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    per_sample = out.flatten(1)
    assert bool((per_sample == per_sample[:, :1]).all())
    # The standard deviation of this mean is 0.009.
    assert out.mean().item() == pytest.approx(1, abs=0.04)


@torch.no_grad()
def test_a_block_whose_branches_are_dropped_passes_the_fused_stream() -> None:
    block = tiny_block(drop_path=1 - 1e-9).train()
    pair, fused = tokens()

    torch.testing.assert_close(block(pair, fused), fused, rtol=0, atol=0)


@torch.no_grad()
def test_options_reach_the_attention() -> None:
    plain = tiny_block().eval()(*tokens())

    for options in ({"alpha": 0.1}, {"steps": 3}, {"form": "paper"}):
        changed = tiny_block(**options).eval()(*tokens())
        assert (changed - plain).abs().max() > 1e-5, options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "num_heads": 3}, "num_heads must divide dim, got 3 and 10"),
        ({"fusion": "sum"}, "unknown fusion 'sum'"),
        ({"drop_path": 1.0}, r"drop_path must lie in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, "drop_path"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MutualFormerBlock(**{"dim": 8, "num_heads": 2, **options})
