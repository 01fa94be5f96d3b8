"""The RGB-NIR re-identification network: two token trunks, mutual fusion, one embedding.

Source: Wang et al., "MutualFormer", IJCV 2024 (blocks); He et al., "TransReID", ICCV 2021
(overlapping patches, side information); Luo et al., "Bag of Tricks", CVPRW 2019 (BNNeck).
Reconstruction: the authors published the block alone; how the fused stream starts, and that the
feature joins it with both streams, each with its own neck and classifier, is chosen here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from model.backbone import CnnTokens, VitTokens
from model.blocks import MutualFormerBlock, at_least_float32
from model.config import ReIDConfig

PARTS = ("fused", "rgb", "aux")
"""What the embedding is joined from, in this order."""


class ReIDParts(NamedTuple):
    """What training supervises: an entry for each of `PARTS`."""

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
        self.blocks = nn.ModuleList(
            MutualFormerBlock(
                dim,
                config.num_heads,
                config.mlp_ratio,
                drop_path=config.drop_path,
                fusion=config.fusion,
                alpha=config.alpha,
                steps=config.steps,
                form=config.form,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.pool = ClassToken() if config.trunk == "vit" else GeneralisedMean()
        self.necks = nn.ModuleList(Neck(dim, config.num_classes) for _ in PARTS)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor, aux: Tensor, camera: Tensor | None = None) -> Tensor:
        """Answer the embedding.

        Args:
            rgb: uint8 (B, H, W, 3), the `input_size` for a `vit` trunk.
            aux: float32 (B, H, W, 1) in [0, 1], the near-infrared picture of the same crop.
            camera: int64 (B,) in [0, num_cameras); none takes the mean of all cameras.

        Returns:
            float32 (B, 3C), unit length: the parts after their necks, each at unit length, joined.
        """
        features = self.features(rgb, aux, camera)
        parts = [
            F.normalize(at_least_float32(neck(feature)), dim=-1)
            for neck, feature in zip(self.necks, features, strict=True)
        ]
        return F.normalize(torch.cat(parts, dim=-1), dim=-1)

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The fused token and both pooled streams, (B, C) each; inputs as in `forward`."""
        # A permuted (B, H, W, C) tensor is channels-last already. Grey, repeated, meets the same
        # first convolution as colour, so one file of weights serves both trunks.
        x_rgb = (rgb.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        x_aux = (aux.permute(0, 3, 1, 2) - self.mean) / self.std
        rgb_tokens = self._seen_by(self.trunk_rgb(x_rgb), camera)
        aux_tokens = self._seen_by(self.trunk_aux(x_aux), camera)
        pair = torch.cat((rgb_tokens, aux_tokens), dim=-1)  # (B, N, 2C)
        fused = self.start(pair)
        for block in self.blocks:
            fused = block(pair, fused)
        fused = self.norm(fused)
        return self.pool(fused), self.pool(rgb_tokens), self.pool(aux_tokens)

    def _seen_by(self, tokens: Tensor, camera: Tensor | None) -> Tensor:
        if self.cameras is None:
            return tokens
        weight = self.cameras.weight
        side = weight.mean(dim=0) if camera is None else weight[camera][:, None]
        return tokens + self.config.camera_weight * side


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
