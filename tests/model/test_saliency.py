from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from model.config import STRIDES, Decoder, Fusion, SaliencyConfig
from model.saliency import MutualFusion, SaliencyNet
from tests.model.kernels.accuracy import peak_bytes
from tests.model.tiny import SIDE, tiny_network, tiny_pair

DECODERS = get_args(Decoder)


def parameters_of(name: str) -> int:
    with torch.device("meta"):
        network = SaliencyNet(SaliencyConfig.preset(name))
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_compact_preset_stays_under_5_million_parameters() -> None:
    assert parameters_of("saliency-compact") < 5_000_000


def test_the_resnet50_preset_has_the_published_size() -> None:
    # Table 1 of the paper says 52.05 M.
    assert parameters_of("saliency-resnet50") == pytest.approx(52.05e6, rel=0.03)


def test_the_fine_preset_fuses_at_every_level() -> None:
    assert SaliencyConfig.preset("saliency-compact-fine").fusion_strides == STRIDES
    assert parameters_of("saliency-compact-fine") < 5_000_000


def test_fusion_takes_memory_in_proportion_to_its_tokens() -> None:
    """With quadratic memory, 1.94 times the tokens would take 3.8 times as much."""
    fusion = MutualFusion(SaliencyConfig.preset("saliency-compact-fine"), separable=True)

    def peak(side: int) -> int:
        rgb, aux = torch.rand(2, 1, 96, side, side, requires_grad=True)
        return peak_bytes(lambda: fusion(rgb, aux).sum().backward())

    assert peak(46) < 2.2 * peak(33)


def test_the_fine_preset_learns_from_a_step() -> None:
    torch.manual_seed(0)
    network = SaliencyNet(SaliencyConfig.preset("saliency-compact-fine")).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    rgb, aux = tiny_pair(2)
    target = (aux[..., 0] > 0.5).float()
    losses = []

    for _ in range(2):
        loss = torch.nn.functional.binary_cross_entropy(network(rgb, aux), target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())

    for fusion in network.fusions:
        gradients = [each.grad for each in fusion.parameters()]
        assert all(each is not None and bool(each.isfinite().all()) for each in gradients)
        assert any(each is not None and bool(each.any()) for each in gradients)
    assert losses[1] < losses[0]


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_the_answer_is_a_map_between_0_and_1(decoder: Decoder) -> None:
    network = tiny_network(decoder=decoder)
    rgb, aux = tiny_pair(3)

    pred = network(rgb, aux)

    assert pred.shape == (3, SIDE, SIDE)
    assert pred.dtype == torch.float32
    assert 0 <= pred.min() < pred.max() <= 1


@torch.no_grad()
def test_height_and_width_may_differ() -> None:
    network = tiny_network()

    pred = network(torch.zeros(1, 64, 96, 3, dtype=torch.uint8), torch.zeros(1, 64, 96, 1))

    assert pred.shape == (1, 64, 96)


@torch.no_grad()
def test_a_row_has_the_same_answer_alone_and_in_a_batch() -> None:
    network = tiny_network()
    rgb, aux = tiny_pair(5)

    together = network(rgb, aux)

    for i in range(5):
        alone = network(rgb[i : i + 1], aux[i : i + 1])
        assert (alone[0] - together[i]).abs().max() < 1e-6


@torch.no_grad()
def test_evaluation_is_deterministic() -> None:
    network = tiny_network(drop_path=0.5)

    torch.testing.assert_close(network(*tiny_pair()), network(*tiny_pair()), rtol=0, atol=0)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_supervision_does_not_change_the_answer(decoder: Decoder) -> None:
    network = tiny_network(decoder=decoder)
    pair = tiny_pair()

    answer = network.logits(*pair, supervise=False)
    supervised = network.logits(*pair, supervise=True)

    assert len(answer.maps) == 1
    assert answer.rgb == answer.aux == ()
    torch.testing.assert_close(answer.maps[0], supervised.maps[0], rtol=0, atol=0)


@pytest.mark.parametrize(("decoder", "maps"), [("light", 4), ("cascaded", 6)])
@torch.no_grad()
def test_supervised_maps_lie_at_the_strides(decoder: Decoder, maps: int) -> None:
    logits = tiny_network(decoder=decoder).logits(*tiny_pair())

    sides = [SIDE // stride for stride in STRIDES]
    assert [x.shape[-1] for x in logits.rgb] == sides
    assert [x.shape[-1] for x in logits.aux] == sides
    finest = [sides[0]] * (maps - len(sides))
    assert [x.shape[-1] for x in logits.maps] == finest + sides
    assert all(x.shape[:2] == (2, 1) for x in (*logits.maps, *logits.rgb, *logits.aux))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_parameter_learns(fusion: Fusion, decoder: Decoder) -> None:
    network = tiny_network(fusion=fusion, decoder=decoder).train()

    logits = network.logits(*tiny_pair(4))
    every = (*logits.maps, *logits.rgb, *logits.aux)
    torch.stack([x.square().mean() for x in every]).sum().backward()  # type: ignore[no-untyped-call]

    still = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert still == []


def test_the_streams_heads_alone_are_idle_in_the_answer() -> None:
    network = tiny_network()

    network(*tiny_pair()).sum().backward()

    idle = {
        name.split(".")[0] if name.startswith("heads") else name
        for name, parameter in network.named_parameters()
        if parameter.grad is None
    }
    coarse = {f"decoder.heads.{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}
    assert idle == {"heads_rgb", "heads_aux"} | coarse


@pytest.mark.parametrize("fusion", get_args(Fusion))
@torch.no_grad()
def test_both_modalities_reach_the_answer(fusion: Fusion) -> None:
    network = tiny_network(fusion=fusion)
    rgb, aux = tiny_pair()
    before = network(rgb, aux)

    assert (network(rgb.flip(0), aux) - before).abs().max() > 1e-4
    assert (network(rgb, aux.flip(0)) - before).abs().max() > 1e-4


@torch.no_grad()
def test_each_stream_has_its_own_supervision() -> None:
    network = tiny_network()
    rgb, aux = tiny_pair()
    before, after = network.logits(rgb, aux), network.logits(rgb, aux.flip(0))

    torch.testing.assert_close(before.rgb, after.rgb, rtol=0, atol=0)
    for one, other in zip(before.aux, after.aux, strict=True):
        assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_pictures_are_normalised_inside() -> None:
    network = tiny_network()
    rgb, aux = tiny_pair()
    seen = {}
    for stream in ("rgb", "aux"):
        trunk = getattr(network, f"trunk_{stream}")
        trunk.register_forward_pre_hook(
            lambda _module, inputs, stream=stream: seen.update({stream: inputs[0]})
        )

    network(rgb, aux)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = ((rgb / 255 - mean) / std).permute(0, 3, 1, 2)
    near = ((aux - mean.mean()) / std.mean()).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen, {"rgb": colour, "aux": near})


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "test_resnet"},
        {"backbone": "test_convnext"},
        {"backbone": "mobilenetv3_small_050"},
        {"fusion_strides": (8, 32), "depth": 2},
        {"fusion_strides": ()},
        {"fusion_strides": STRIDES},
        {"fusion_strides": (4, 8)},
        {"form": "paper", "steps": 2, "alpha": 0.3},
        {"decoder": "cascaded", "embed_dim": 16, "decoder_dim": 32},
    ],
    ids=str,
)
@torch.no_grad()
def test_other_choices_run(changes: dict[str, Any]) -> None:
    pred = tiny_network(**changes)(*tiny_pair(1))

    assert pred.shape == (1, SIDE, SIDE)
    assert bool(pred.isfinite().all())
