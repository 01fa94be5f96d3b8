from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.config import ReIDConfig
from model.reid import ReIDNet
from tests.model.tiny import TINY_REID as TINY
from tests.model.tiny import TINY_VIT


def pairs(config: ReIDConfig, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    height, width = config.input_size
    rgb = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    return rgb, torch.rand(count, height, width, 1, generator=generator)


def network(config: ReIDConfig) -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet(config).eval()


@pytest.mark.parametrize("config", [TINY, TINY_VIT, replace(TINY_VIT, shared_trunk=True)])
@torch.inference_mode()
def test_embeddings_have_unit_length_and_join_three_parts(config: ReIDConfig) -> None:
    embeddings = network(config)(*pairs(config))

    assert embeddings.shape == (3, 3 * config.embed_dim)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-6)
    thirds = embeddings.unflatten(1, (3, -1)).norm(dim=-1)
    torch.testing.assert_close(thirds, torch.full((3, 3), 3**-0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, TINY_VIT])
@torch.inference_mode()
def test_an_embedding_does_not_depend_on_its_batch_mates(config: ReIDConfig) -> None:
    rgb, aux = pairs(config)
    reid = network(config)

    alone = torch.cat([reid(rgb[i : i + 1], aux[i : i + 1]) for i in range(3)])

    torch.testing.assert_close(reid(rgb, aux), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, TINY_VIT])
@pytest.mark.parametrize("changed", ["rgb", "aux"])
@torch.inference_mode()
def test_each_modality_reaches_its_own_part_and_the_fused_one(
    config: ReIDConfig, changed: str
) -> None:
    reid = network(config)
    rgb, aux = pairs(config, 2)
    other_rgb, other_aux = pairs(config, 4)
    other = (other_rgb[:2], aux) if changed == "rgb" else (rgb, other_aux[:2])

    moved = [
        (a - b).abs().max() > 1e-4
        for a, b in zip(reid.features(rgb, aux), reid.features(*other), strict=True)
    ]

    assert moved == [True, changed == "rgb", changed == "aux"]


def test_a_shared_trunk_is_one_trunk() -> None:
    own, shared = network(TINY), network(replace(TINY, shared_trunk=True))

    assert shared.trunk_aux is shared.trunk_rgb
    trunk = sum(p.numel() for p in own.trunk_rgb.parameters())
    assert sum(p.numel() for p in own.parameters()) == trunk + sum(
        p.numel() for p in shared.parameters()
    )


def test_every_parameter_gets_a_gradient() -> None:
    config = replace(TINY, num_classes=5, num_cameras=2)
    reid = network(config).train()

    parts = reid.parts(*pairs(config), camera=torch.tensor([0, 1, 0]))
    sum(x.square().mean() for x in (*parts.features, *parts.logits)).backward()  # type: ignore[union-attr]

    assert [x.shape for x in parts.logits] == [(3, 5)] * 3
    without = [n for n, p in reid.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@torch.inference_mode()
def test_a_camera_moves_the_embedding_and_no_camera_takes_their_mean() -> None:
    reid = network(replace(TINY, num_cameras=2))
    rgb, aux = pairs(TINY)
    first, second = (reid(rgb, aux, torch.full((3,), camera)) for camera in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)

    assert reid.cameras is not None
    mean = reid.cameras.weight.mean(0)
    reid.cameras.weight.copy_(mean.expand(2, -1))

    torch.testing.assert_close(reid(rgb, aux), reid(rgb, aux, torch.tensor([0, 1, 0])))


def test_the_compact_preset_is_under_five_million_with_the_classifiers_of_405_vehicles() -> None:
    reid = ReIDNet(replace(ReIDConfig.preset("reid-compact"), num_classes=405))

    assert sum(p.numel() for p in reid.parameters()) < 5e6


@pytest.mark.parametrize(
    ("size", "stride", "tokens"),
    [((256, 256), None, 257), ((256, 128), None, 129), ((256, 128), 12, 211)],
)
@torch.inference_mode()
def test_the_vit_preset_reads_the_published_number_of_tokens(
    size: tuple[int, int], stride: int | None, tokens: int
) -> None:
    preset = replace(ReIDConfig.preset("reid-vit-base"), input_size=size, patch_stride=stride)
    with torch.device("meta"):
        reid = ReIDNet(preset)

    seen = reid.trunk_rgb(torch.empty(1, 3, *size, device="meta"))

    assert seen.shape == (1, tokens, 768)
    assert sum(p.numel() for p in reid.blocks[0].parameters()) == 14_168_832


def test_position_embeddings_are_resized_to_the_grid(tmp_path: Path) -> None:
    square = network(replace(TINY_VIT, input_size=(64, 64))).trunk_rgb
    save_file(square.trunk.state_dict(), tmp_path / "vit.safetensors")
    tall = network(TINY_VIT).trunk_rgb

    tall.load_weights(tmp_path / "vit.safetensors")

    torch.testing.assert_close(
        tall.trunk.state_dict()["blocks.0.attn.qkv.weight"],
        square.trunk.state_dict()["blocks.0.attn.qkv.weight"],
    )
    assert tall.trunk.state_dict()["pos_embed"].shape == (1, 1 + 8, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "no_such_model"}, "no_such_model"),
        ({"embed_dim": 32}, "tokens of 64, embed_dim is 32"),
        ({"patch_stride": 17}, "patch_stride must be 1 to 16"),
        ({"backbone": "test_efficientnet"}, "test_efficientnet"),
    ],
)
def test_what_does_not_fit_a_vit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReIDNet(replace(TINY_VIT, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_stride": 12}, "patch_stride is for a vit"),
        ({"num_heads": 3}, "num_heads must divide embed_dim"),
        ({"input_size": (60, 64)}, "multiples of 16"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


@torch.no_grad()
def test_jigsaw_groups_see_patches_from_everywhere_and_answer_apart() -> None:
    config = replace(TINY_VIT, input_size=(64, 64), jigsaw=4)
    net = network(config)
    rgb, aux = pairs(config, 2)

    features = net.features(rgb, aux)
    embedding = net(rgb, aux)

    assert net.jigsaw is not None
    order = net.jigsaw.order
    assert (order[:, 0] == 0).all()  # the class token leads each group
    patches = order[:, 1:].flatten().tolist()
    assert len(set(patches)) == len(patches) == 16
    assert set(patches) <= set(range(1, 17))
    halves = (order[:, 1:] - 1) // 8  # of the picture
    assert all(len(set(group.tolist())) == 2 for group in halves)
    assert len(features) == 7
    assert embedding.shape == (2, config.embedding_dim) == (2, 7 * 64)
    parts = embedding.unflatten(1, (7, 64)).norm(dim=-1)
    torch.testing.assert_close(parts[:, 3:], parts[:, :1].expand(-1, 4) / 4)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(("config", "groups"), [(TINY, 4), (TINY_VIT, 1)])
def test_jigsaw_without_patches_is_refused(config: ReIDConfig, groups: int) -> None:
    with pytest.raises(ValueError, match="jigsaw is for a vit trunk, 2 groups or more"):
        replace(config, jigsaw=groups)
