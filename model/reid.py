"""The RGB-NIR re-identification network: two token trunks, mutual fusion, one embedding.

Source: Wang et al., "MutualFormer", IJCV 2024 (blocks); He et al., "TransReID", ICCV 2021
(overlapping patches, side information, jigsaw patches); Luo et al., "Bag of Tricks", CVPRW 2019
(BNNeck).
Reconstruction: the authors published the block alone; how the fused stream starts, and that the
feature joins it with both streams, each with its own neck and classifier, is chosen here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from model.backbone import CnnTokens, VitTokens
from model.blocks import MutualFormerBlock, StandIn, at_least_float32
from model.config import ReIDConfig

PARTS = ("fused", "rgb", "aux")
"""What the embedding is joined from, in this order; then the groups of the jigsaw module."""
SHIFT = 5
"""Patches by which the jigsaw module turns the sequence before it shuffles; 5 in TransReID."""


class ReIDParts(NamedTuple):
    """What training supervises: an entry for each of `PARTS` and each group of patches."""

    features: tuple[Tensor, ...]
    """Before the necks, (B, C): what metric losses compare."""
    logits: tuple[Tensor, ...]
    """Of the identities, (B, num_classes); empty where the network has no classifiers."""


class ClassToken(nn.Module):
    """The first token of a `vit`: (B, N, C) -> (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> float32 (B, C)."""
        return at_least_float32(tokens[:, 0])


class GeneralisedMean(nn.Module):
    """A mean of powers of what is positive, between mean and maximum; the power is learned.

    Source: Radenovic et al., "Fine-tuning CNN image retrieval", TPAMI 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> float32 (B, C)."""
        power = self.power.clamp(1, 8)
        # In float32: third powers of 16-bit numbers lose too much.
        return at_least_float32(tokens).clamp(min=1e-4).pow(power).mean(dim=1).pow(1 / power)


class Neck(nn.Module):
    """BNNeck: the classifier and the search read the feature after a normalisation without shift.

    Args:
        dim: width C of the feature.
        num_classes: identities; 0 leaves the classifier out.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(dim, num_classes, bias=False) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        out: Tensor = self.norm(feature)
        return out


class Jigsaw(nn.Module):
    """TransReID's jigsaw patch module on the fused stream: groups of patches from everywhere.

    Patches are turned by `SHIFT`, two halves interleaved, and cut into groups; each, with the class
    token, passes a block of its own kind in place of the network's last. The order is fixed.
    Departure: TransReID copies its last block when training starts; this one starts anew.

    Args:
        config: of the network.
        trunk: whose patches they are.

    Raises:
        ValueError: there are fewer patches than groups.
    """

    order: Tensor

    def __init__(self, config: ReIDConfig, trunk: nn.Module) -> None:
        super().__init__()
        height, width = trunk.grid  # type: ignore[misc] # a vit's, as the configuration checks
        count = int(height) * int(width)
        groups = config.jigsaw
        if count < groups:
            raise ValueError(f"jigsaw has {groups} groups, but there are {count} patches")
        turned = torch.arange(count).roll(-SHIFT)
        even = turned[: count // 2 * 2].view(2, -1).T.reshape(-1)
        shuffled = torch.cat((even, turned[len(even) :])) + 1  # after the class token
        size = count // groups
        order = torch.zeros(groups, 1 + size, dtype=torch.long)
        order[:, 1:] = shuffled[: groups * size].view(groups, size)
        self.block = _block(config)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.register_buffer("order", order, persistent=False)

    def forward(self, pair: Tensor, fused: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, N, 2C) and (B, N, C) -> a feature (B, C) for each group."""
        groups, size = self.order.shape
        pairs, streams = (
            x.index_select(1, self.order.flatten()).reshape(-1, size, x.shape[-1])
            for x in (pair, fused)
        )  # (B * groups, size, ...)
        tokens = at_least_float32(self.norm(self.block(pairs, streams)[:, 0]))
        answer: tuple[Tensor, ...] = tokens.reshape(-1, groups, tokens.shape[-1]).unbind(1)
        return answer


class ReIDNet(nn.Module):
    """RGB + near-infrared crop -> unit embedding; normalisations are inside.

    Args:
        config: the architecture; weights start random, nothing is downloaded.

    Raises:
        ValueError: the trunk does not answer tokens of `embed_dim`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ReIDConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.trunk_rgb = _trunk(config)
        self.trunk_aux = self.trunk_rgb if config.shared_trunk else _trunk(config)
        self.cameras = (
            nn.Embedding(config.num_cameras, dim) if config.num_cameras else None
        )  # of the view, added to every token
        if self.cameras is not None:
            nn.init.trunc_normal_(self.cameras.weight, std=0.02)
        self.start = nn.Linear(2 * dim, dim)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.pool = ClassToken() if config.trunk == "vit" else GeneralisedMean()
        self.necks = nn.ModuleList(
            Neck(dim, config.num_classes) for _ in range(len(PARTS) + config.jigsaw)
        )
        self.jigsaw = Jigsaw(config, self.trunk_rgb) if config.jigsaw else None
        self.stand_in_rgb = StandIn(dim) if config.stand_in else None
        self.stand_in_aux = StandIn(dim) if config.stand_in else None
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor, aux: Tensor, camera: Tensor | None = None) -> Tensor:
        """Answer the embedding.

        Args:
            rgb: uint8 (B, H, W, 3), the `input_size` for a `vit` trunk.
            aux: float32 (B, H, W, 1) in [0, 1], the near-infrared picture of the same crop.
            camera: int64 (B,) in [0, num_cameras); none takes the mean of all cameras.

        Returns:
            float32 (B, D), unit length: the parts after their necks, each at unit length, joined;
            the groups of patches weigh together as one part. D is `embedding_dim`.
        """
        features = self.features(rgb, aux, camera)
        parts = [
            F.normalize(at_least_float32(neck(feature)), dim=-1)
            for neck, feature in zip(self.necks, features, strict=True)
        ]
        groups = parts[len(PARTS) :]
        weighed = [*parts[: len(PARTS)], *(part / len(groups) for part in groups)]
        return F.normalize(torch.cat(weighed, dim=-1), dim=-1)

    def parts(self, rgb: Tensor, aux: Tensor, camera: Tensor | None = None) -> ReIDParts:
        """Answer what training supervises; inputs as in `forward`."""
        features = self.features(rgb, aux, camera)
        necks: Any = self.necks
        logits = tuple(
            neck.classifier(neck(feature))
            for neck, feature in zip(necks, features, strict=True)
            if neck.classifier is not None
        )
        return ReIDParts(features, logits)

    def features(
        self, rgb: Tensor, aux: Tensor, camera: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The fused token, both pooled streams, groups of patches, (B, C); inputs as `forward`."""
        # A permuted (B, H, W, C) tensor is channels-last already. Grey, repeated, meets the same
        # first convolution as colour, so one file of weights serves both trunks.
        colour = rgb.permute(0, 3, 1, 2).float()
        x_rgb = (colour / 255 - self.mean) / self.std
        x_aux = (aux.permute(0, 3, 1, 2) - self.mean) / self.std
        rgb_tokens = self._seen_by(self.trunk_rgb(x_rgb), camera)
        aux_tokens = self._seen_by(self.trunk_aux(x_aux), camera)
        if self.stand_in_rgb is not None and self.stand_in_aux is not None:
            rgb_tokens = self.stand_in_rgb(rgb_tokens, colour, channel=2)
            aux_tokens = self.stand_in_aux(aux_tokens, aux, channel=2)
        pair = torch.cat((rgb_tokens, aux_tokens), dim=-1)  # (B, N, 2C)
        fused = self.start(pair)
        before = fused
        for block in self.blocks:
            before, fused = fused, block(pair, fused)
        whole = self.pool(self.norm(fused)), self.pool(rgb_tokens), self.pool(aux_tokens)
        return whole if self.jigsaw is None else (*whole, *self.jigsaw(pair, before))

    def _seen_by(self, tokens: Tensor, camera: Tensor | None) -> Tensor:
        if self.cameras is None:
            return tokens
        weight = self.cameras.weight
        side = weight.mean(dim=0) if camera is None else weight[camera][:, None]
        return tokens + self.config.camera_weight * side


def _block(config: ReIDConfig) -> MutualFormerBlock:
    return MutualFormerBlock(
        config.embed_dim,
        config.num_heads,
        config.mlp_ratio,
        drop_path=config.drop_path,
        fusion=config.fusion,
        alpha=config.alpha,
        steps=config.steps,
        form=config.form,
    )


def _trunk(config: ReIDConfig) -> CnnTokens | VitTokens:
    if config.trunk == "vit":
        vit = VitTokens(
            config.backbone,
            config.input_size,
            config.patch_stride,
            config.drop_path,
            config.backbone_args,
        )
        if vit.dim != config.embed_dim:
            raise ValueError(
                f"{config.backbone} has tokens of {vit.dim}, embed_dim is {config.embed_dim}"
            )
        return vit
    return CnnTokens(config.backbone, config.embed_dim, config.backbone_args)
