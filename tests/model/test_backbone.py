from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.backbone import CnnTokens, InterleavedConv, Pyramid
from model.config import STRIDES

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"
TRUNKS = ["test_efficientnet", "test_resnet", "test_convnext", "mobilenetv3_small_050"]
"""Small timm trunks of four families."""


def state_of(trunk: torch.nn.Module) -> dict[str, Tensor]:
    """Own copies, as a file of weights has."""
    return {key: value.clone() for key, value in trunk.state_dict().items()}


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", TRUNKS)
@torch.no_grad()
def test_a_pyramid_has_one_level_per_stride(name: str, in_channels: int) -> None:
    pyramid = Pyramid(name, in_channels).eval()

    levels = pyramid(torch.zeros(2, in_channels, 64, 96))

    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(pyramid.channels, STRIDES, strict=True)]
    assert [tuple(level.shape) for level in levels] == expected


@torch.no_grad()
def test_arguments_reach_timm() -> None:
    torch.manual_seed(0)
    plain = Pyramid("test_efficientnet", 3).eval()
    same = Pyramid("test_efficientnet", 3, {"pad_type": "same"}).eval()
    same.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)

    assert (plain(x)[-1] - same(x)[-1]).abs().max() > 1e-6


def test_an_unknown_trunk_is_named() -> None:
    with pytest.raises(ValueError, match="mobilenet_of_2050"):
        Pyramid("mobilenet_of_2050", 3)


def test_a_trunk_without_the_strides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'test_vit' has levels at strides \[16.*needs \(4, 8"):
        Pyramid("test_vit", 3, {"img_size": 64})


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
@torch.no_grad()
def test_a_classifiers_weights_load_without_its_head(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model(name, pretrained=False).eval()
    save_file(state_of(classifier), tmp_path / "weights.safetensors")
    pyramid = Pyramid(name, 3).eval()

    pyramid.load_weights(tmp_path / "weights.safetensors")

    own = pyramid.trunk.state_dict()
    theirs = classifier.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())


@torch.no_grad()
def test_one_channel_answers_as_if_grey_were_repeated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = Pyramid("test_efficientnet", 3).eval()
    save_file(state_of(colour.trunk), tmp_path / "weights.safetensors")
    grey = Pyramid("test_efficientnet", 1).eval()
    x = torch.rand(1, 1, 64, 64)

    grey.load_weights(tmp_path / "weights.safetensors")

    for one, three in zip(grey(x), colour(x.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three)


@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen"])
def test_weights_that_do_not_fit_are_named(fault: str, tmp_path: Path) -> None:
    pyramid = Pyramid("test_efficientnet", 3)
    state = state_of(pyramid.trunk)
    if fault == "missing":
        name = "conv_stem.weight"
        del state[name]
    elif fault == "unknown":
        name = "conv_extra.weight"
        state[name] = torch.zeros(1)
    else:
        name = "bn1.bias"
        state[name] = torch.zeros(3)
    save_file(state, tmp_path / "weights.safetensors")

    with pytest.raises(ValueError, match=name) as caught:
        pyramid.load_weights(tmp_path / "weights.safetensors")

    assert "weights.safetensors does not fit the trunk" in str(caught.value)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(
    "name", ["mobilenetv2_100_imagenet", "mobilenetv2_100_pascal_segmentation"]
)
def test_the_shared_trunk_weights_load(name: str, in_channels: int) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    pyramid = Pyramid("mobilenetv2_100", in_channels, {"pad_type": "same"})
    before = pyramid.trunk.conv_stem.weight.clone()  # type: ignore[operator, union-attr]

    pyramid.load_weights(path)

    after = pyramid.trunk.conv_stem.weight  # type: ignore[union-attr]
    assert not torch.equal(before, after)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(10, 10), (7, 9), (4, 5), (1, 2)])
def test_an_interleaved_convolution_is_the_dilated_one(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
    ours = InterleavedConv(6, 6, 3, padding=2, dilation=2, groups=6).train()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, *size, requires_grad=True)
    seed = torch.randn(2, 6, *size)

    answers = []
    for conv in (plain, ours):
        y = conv(x)
        answers.append((y, *torch.autograd.grad(y, (x, *conv.parameters()), seed)))

    for expected, answer in zip(*answers, strict=True):
        torch.testing.assert_close(answer, expected)


def test_trunks_at_stride_16_have_interleaved_convolutions() -> None:
    trunk = CnnTokens("mobilenetv2_100", 32)

    dilated = [m for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.dilation == (2, 2)]

    assert len(dilated) == 3
    assert all(isinstance(module, InterleavedConv) for module in dilated)
