from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.config import Decoder
from model.saliency import SaliencyLogits
from tests.model.tiny import tiny_network, tiny_pair
from training.losses import Bce, boundary_weight, focal_loss, saliency_loss, structure_loss

Map = NDArray[np.float64]


def literal_boundary_weight(gt: Map, window: int = 31) -> Map:
    """F3Net's `1 + 5 |mean31(gt) - gt|` of one (H, W) map, one pixel at a time, zeros outside."""
    pad = window // 2
    padded = np.pad(gt, pad)
    mean = np.empty_like(gt)
    for y, x in np.ndindex(gt.shape):
        mean[y, x] = padded[y : y + window, x : x + window].mean()
    return np.asarray(1 + 5 * np.abs(mean - gt))


def literal_structure_loss(logits: Map, gt: Map, weight: Map, bce: Bce) -> float:
    """F3Net's `structure_loss` of one batch (B, 1, H, W); `published` lets its legacy flag act."""
    pred = 1 / (1 + np.exp(-logits))
    per_pixel = -(gt * np.log(pred) + (1 - gt) * np.log(1 - pred))
    if bce == "published":
        per_pixel = np.full_like(per_pixel, per_pixel.mean())
    wbce = (weight * per_pixel).sum((2, 3)) / weight.sum((2, 3))
    inter = (pred * gt * weight).sum((2, 3))
    union = ((pred + gt) * weight).sum((2, 3))
    wiou = 1 - (inter + 1) / (union - inter + 1)
    return float((wbce + wiou).mean())


def disc(B: int = 2, side: int = 40) -> Tensor:
    """A filled circle, float64 (B, 1, side, side) of 0 and 1, at another place in every row."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rows = [(x - side / 3 - 4 * i) ** 2 + (y - side / 2) ** 2 < (side / 4) ** 2 for i in range(B)]
    return torch.stack(rows)[:, None].double()


def noise(like: Tensor, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=rng, dtype=torch.float64) * 3


def test_boundary_weight_is_the_square_average() -> None:
    gt = disc()

    weight = boundary_weight(gt)

    average = F.avg_pool2d(gt, 31, stride=1, padding=15)
    torch.testing.assert_close(weight, 1 + 5 * (average - gt).abs())
    literal = np.stack([literal_boundary_weight(row[0].numpy())[None] for row in gt])
    np.testing.assert_allclose(weight.numpy(), literal, rtol=1e-12)


def test_boundary_weight_is_largest_at_the_outline() -> None:
    gt = torch.zeros(1, 1, 128, 128)
    gt[..., 64:] = 1

    weight = boundary_weight(gt)[0, 0, 64]

    assert weight.argmax().item() in (63, 64)
    assert weight[32].item() == pytest.approx(1)
    assert weight[96].item() == pytest.approx(1)


@pytest.mark.parametrize("bce", get_args(Bce))
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), B=st.integers(1, 3), side=st.integers(1, 24))
def test_structure_loss_is_the_literal_formula(bce: Bce, seed: int, B: int, side: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    gt = torch.rand(B, 1, side, side, generator=rng, dtype=torch.float64)
    logits, weight = noise(gt, seed), boundary_weight(gt)

    loss = structure_loss(logits, gt, weight, bce)

    expected = literal_structure_loss(logits.numpy(), gt.numpy(), weight.numpy(), bce)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_smoothing_keeps_a_sure_answer_moderate() -> None:
    gt = disc(B=1)
    weight = boundary_weight(gt)

    def loss(logit: float, smoothing: float) -> float:
        return structure_loss((2 * gt - 1) * logit, gt, weight, smoothing=smoothing).item()

    assert loss(20, 0) < loss(6, 0)
    assert loss(20, 0.02) > loss(6, 0.02)


def test_published_cross_entropy_ignores_the_weight() -> None:
    gt = disc()
    logits, flat = noise(gt), torch.ones_like(gt)
    weight = boundary_weight(gt)

    def cross_entropy(weight: Tensor, bce: Bce) -> float:
        # The intersection over union is the same in both, so it cancels.
        other = structure_loss(logits, gt, weight, "published").item()
        plain = F.binary_cross_entropy_with_logits(logits, gt).item()
        return structure_loss(logits, gt, weight, bce).item() - other + plain

    assert cross_entropy(weight, "published") == pytest.approx(cross_entropy(flat, "published"))
    assert cross_entropy(flat, "weighted") == pytest.approx(cross_entropy(flat, "published"))
    assert abs(cross_entropy(weight, "weighted") - cross_entropy(flat, "weighted")) > 1e-3


@pytest.mark.parametrize("bce", get_args(Bce))
def test_a_perfect_prediction_costs_nothing(bce: Bce) -> None:
    gt = disc()
    weight = boundary_weight(gt)

    right, wrong = (structure_loss(s * (gt * 2 - 1), gt, weight, bce) for s in (30, -30))

    assert right.item() < 1e-6
    assert wrong.item() > 10


def test_an_empty_mask_is_learnable() -> None:
    gt = torch.zeros(1, 1, 8, 8)
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)

    structure_loss(logits, gt, boundary_weight(gt)).backward()  # type: ignore[no-untyped-call]

    assert logits.grad is not None
    assert bool((logits.grad > 0).all())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_is_the_published_formula(gamma: float) -> None:
    gt = disc()
    logits = noise(gt)

    loss = focal_loss(logits, gt, gamma)

    p = 1 / (1 + np.exp(-logits.numpy()))
    p_true = np.where(gt.numpy() == 1, p, 1 - p)
    assert loss.item() == pytest.approx(float((-((1 - p_true) ** gamma) * np.log(p_true)).mean()))


def test_focal_loss_fades_where_the_prediction_is_right() -> None:
    gt = torch.ones(1, 1, 1, 1)
    easy, hard = torch.full_like(gt, 3.0), torch.full_like(gt, -3.0)

    def faded(logits: Tensor) -> float:
        plain = F.binary_cross_entropy_with_logits(logits, gt)
        return (focal_loss(logits, gt) / plain).item()

    assert faded(easy) < 0.01
    assert faded(hard) > 0.9


def perfect_logits(network_logits: SaliencyLogits, gt: Tensor) -> SaliencyLogits:
    def at(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        return torch.logit(F.adaptive_avg_pool2d(gt, (h, w)), eps=1e-6)

    maps, rgb, aux = (tuple(at(x) for x in group) for group in network_logits)
    return SaliencyLogits(maps, rgb, aux)


@pytest.mark.parametrize("decoder", get_args(Decoder))
@torch.no_grad()
def test_the_total_falls_to_its_least_at_the_mask(decoder: Decoder) -> None:
    network = tiny_network(decoder=decoder).train()
    rgb, aux = tiny_pair(2)
    gt = disc(2, 64).float()
    logits = network.logits(rgb, aux)
    perfect = perfect_logits(logits, gt)
    inverse = SaliencyLogits(*(tuple(-x for x in group) for group in perfect))

    best, _ = saliency_loss(perfect, gt, decoder)
    random, _ = saliency_loss(logits, gt, decoder)
    worst, _ = saliency_loss(inverse, gt, decoder)

    assert best < random < worst


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_the_total_is_the_weighted_sum_of_its_parts(decoder: Decoder) -> None:
    network = tiny_network(decoder=decoder).train()
    gt = disc(2, 64).float()
    logits = network.logits(*tiny_pair(2))

    total, parts = saliency_loss(logits, gt, decoder, focal_weight=0.3)
    alone, _ = saliency_loss(logits, gt, decoder, focal_weight=0.0)

    torch.testing.assert_close(total, parts["fused"] + 0.3 * parts["streams"])
    torch.testing.assert_close(alone, parts["fused"])
    assert not any(part.requires_grad for part in parts.values())


def test_a_map_too_many_is_an_error() -> None:
    network = tiny_network(decoder="light").train()
    logits = network.logits(*tiny_pair(2))

    with pytest.raises(ValueError, match="zip"):
        saliency_loss(logits, disc(2, 64).float(), "cascaded")
