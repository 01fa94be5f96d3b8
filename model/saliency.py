"""The RGB-D saliency network: two trunks, mutual fusion, a top-down decoder.

Source: Wang et al., "MutualFormer", IJCV 2024 (blocks), and Wei et al., "F3Net", AAAI 2020
(squeezed levels, cross feature module, cascaded decoder). Reconstruction: the authors published
the block alone; where the blocks stand, their width and number, and the focal supervision are
chosen here to fit the published figures, parameter count and text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from model.backbone import Pyramid
from model.blocks import MutualFormerBlock, StandIn, at_least_float32
from model.config import STRIDES, SaliencyConfig


class SaliencyLogits(NamedTuple):
    """What training supervises; each entry (B, 1, h, w), at the resolution where it arises."""

    maps: tuple[Tensor, ...]
    """The decoder's, most important first; the first is the network's answer."""
    rgb: tuple[Tensor, ...]
    """Of the RGB stream alone, one per level, fine to coarse."""
    aux: tuple[Tensor, ...]
    """Of the auxiliary stream alone, one per level, fine to coarse."""


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation, ReLU; keeps height and width.

    Args:
        in_dim: input channels.
        out_dim: output channels.
        kernel: side of the kernel in cells.
        separable: a depthwise and a pointwise convolution in place of a full one.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, separable: bool = False) -> None:
        pad = kernel // 2
        if separable and kernel > 1:
            conv: list[nn.Module] = [
                nn.Conv2d(in_dim, in_dim, kernel, padding=pad, groups=in_dim, bias=False),
                nn.BatchNorm2d(in_dim),
                nn.Conv2d(in_dim, out_dim, 1, bias=False),
            ]
        else:
            conv = [nn.Conv2d(in_dim, out_dim, kernel, padding=pad, bias=False)]
        super().__init__(*conv, nn.BatchNorm2d(out_dim), nn.ReLU(inplace=True))


class ConcatFusion(nn.Module):
    """Concatenates both streams of a level and convolves."""

    def __init__(self, in_dim: int, out_dim: int, separable: bool) -> None:
        super().__init__()
        self.conv = ConvBlock(in_dim * 2, out_dim, separable=separable)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Two (B, in_dim, h, w) -> (B, out_dim, h, w)."""
        out: Tensor = self.conv(torch.cat((rgb, aux), dim=1))
        return out


class MutualFusion(nn.Module):
    """Fuses both streams of a level with MutualFormer blocks over its cells as tokens.

    Reconstruction: the fused stream starts as a pointwise convolution of both, after the
    "concatenation & convolution" of the paper's figure.
    """

    def __init__(self, config: SaliencyConfig, separable: bool) -> None:
        super().__init__()
        dim = config.embed_dim
        self.start = ConvBlock(dim * 2, dim, kernel=1)
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
        self.out = ConvBlock(dim, config.decoder_dim, separable=separable)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Two (B, embed_dim, h, w) -> (B, decoder_dim, h, w)."""
        h, w = rgb.shape[-2:]
        both = torch.cat((rgb, aux), dim=1)
        pair = both.flatten(2).transpose(1, 2)  # (B, N, 2C)
        fused = self.start(both).flatten(2).transpose(1, 2)  # (B, N, C)
        for block in self.blocks:
            fused = block(pair, fused)
        out: Tensor = self.out(fused.transpose(1, 2).unflatten(2, (h, w)))
        return out


class LightDecoder(nn.Module):
    """Coarse to fine: upsample, add the finer level, refine by separable convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(
            nn.Sequential(
                ConvBlock(dim, dim, kernel=5, separable=True),
                ConvBlock(dim, dim, separable=True),
            )
            for _ in STRIDES
        )
        self.heads = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in STRIDES)

    def forward(self, levels: Sequence[Tensor], supervise: bool) -> tuple[Tensor, ...]:
        """Four (B, dim, h, w), fine to coarse -> logits, finest first; unsupervised, it alone."""
        x = self.refine[-1](levels[-1])
        logits = [self.heads[-1](x)] if supervise else []
        for level, refine, head in zip(
            levels[-2::-1], self.refine[-2::-1], self.heads[-2::-1], strict=True
        ):
            x = refine(level + _upsample(x, level))
            if supervise or head is self.heads[0]:
                logits.append(head(x))
        return tuple(reversed(logits))


class CrossFeatureModule(nn.Module):
    """F3Net's cross feature module: a fine and a coarse map gate each other by their product."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fine = nn.ModuleList(ConvBlock(dim, dim) for _ in range(4))
        self.coarse = nn.ModuleList(ConvBlock(dim, dim) for _ in range(4))

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """(B, dim, h, w) and a coarser one -> both at (B, dim, h, w)."""
        fine_1 = self.fine[0](fine)
        coarse_1 = self.coarse[0](_upsample(coarse, fine))
        product = self.fine[1](fine_1) * self.coarse[1](coarse_1)
        fine_out: Tensor = self.fine[3](self.fine[2](product) + fine_1)
        coarse_out: Tensor = self.coarse[3](self.coarse[2](product) + coarse_1)
        return fine_out, coarse_out


class CascadedDecoder(nn.Module):
    """F3Net's decoder: two rounds, the second fed with the first one's result at every level."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.ModuleList(CrossFeatureModule(dim) for _ in STRIDES[1:]) for _ in range(2)
        )
        self.final_heads = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for _ in range(2))
        self.level_heads = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for _ in STRIDES)

    def forward(self, levels: Sequence[Tensor], supervise: bool) -> tuple[Tensor, ...]:
        """Four (B, dim, h, w), fine to coarse -> logits: round two, round one, then of levels."""
        levels = list(levels)
        first = self._round(0, levels)
        levels = [level + _upsample(first, level) for level in levels]
        second = self._round(1, levels)
        answer = self.final_heads[1](second)
        if not supervise:
            return (answer,)
        of_levels = (head(level) for head, level in zip(self.level_heads, levels, strict=True))
        return answer, self.final_heads[0](first), *of_levels

    def _round(self, index: int, levels: list[Tensor]) -> Tensor:
        """One pass from coarse to fine; replaces the finer `levels` and answers the finest map."""
        x = levels[-1]
        modules: Any = self.rounds[index]
        for i, module in zip((2, 1, 0), modules, strict=True):
            levels[i], x = module(levels[i], x)
        return x


class SaliencyNet(nn.Module):
    """RGB + depth -> saliency map; normalisation and sigmoid are inside.

    Args:
        config: the architecture; weights start random, nothing is downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SaliencyConfig) -> None:
        super().__init__()
        self.config = config
        light = config.decoder == "light"
        dim = config.decoder_dim
        self.trunk_rgb = Pyramid(config.backbone, 3, config.backbone_args)
        self.trunk_aux = Pyramid(config.backbone, 1, config.backbone_args)
        widths = [config.embed_dim if s in config.fusion_strides else dim for s in STRIDES]
        self.squeeze_rgb, self.squeeze_aux = (
            nn.ModuleList(
                ConvBlock(channels, width, kernel=1)
                for channels, width in zip(trunk.channels, widths, strict=True)
            )
            for trunk in (self.trunk_rgb, self.trunk_aux)
        )
        self.fusions = nn.ModuleList(
            MutualFusion(config, light)
            if stride in config.fusion_strides
            else ConcatFusion(dim, dim, light)
            for stride in STRIDES
        )
        self.decoder = LightDecoder(dim) if light else CascadedDecoder(dim)
        # Focal feature supervision: each stream must show the object at every level by itself.
        self.heads_rgb, self.heads_aux = (
            nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths) for _ in range(2)
        )
        # For what the fused stream reads; each stream's own heads see what there is.
        self.stand_ins_rgb, self.stand_ins_aux = (
            nn.ModuleList(StandIn(width) for width in widths) if config.stand_in else None
            for _ in range(2)
        )
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Answer the saliency map.

        Args:
            rgb: uint8 (B, H, W, 3); H and W multiples of 32.
            aux: float32 (B, H, W, 1) in [0, 1], near = 1, missing = 0.

        Returns:
            float32 (B, H, W) in [0, 1].
        """
        logits = at_least_float32(self.logits(rgb, aux, supervise=False).maps[0])
        full = F.interpolate(logits, size=rgb.shape[1:3], mode="bilinear", align_corners=False)
        return full.sigmoid().squeeze(1)

    def logits(self, rgb: Tensor, aux: Tensor, supervise: bool = True) -> SaliencyLogits:
        """Answer logits before upsampling; inputs as in `forward`.

        Args:
            rgb: uint8 (B, H, W, 3).
            aux: float32 (B, H, W, 1).
            supervise: also answer the logits that only training reads.
        """
        # A permuted (B, H, W, C) tensor is channels-last already.
        colour = rgb.permute(0, 3, 1, 2).float()
        x_rgb = (colour / 255 - self.mean) / self.std
        x_aux = (aux.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean.mean()) / self.std.mean()
        levels_rgb = _each(self.squeeze_rgb, self.trunk_rgb(x_rgb))
        levels_aux = _each(self.squeeze_aux, self.trunk_aux(x_aux))
        read_rgb = _stood_in(levels_rgb, self.stand_ins_rgb, colour)
        read_aux = _stood_in(levels_aux, self.stand_ins_aux, aux)
        fused = [
            fusion(level_rgb, level_aux)
            for fusion, level_rgb, level_aux in zip(self.fusions, read_rgb, read_aux, strict=True)
        ]
        maps = self.decoder(fused, supervise)
        if not supervise:
            return SaliencyLogits(maps, (), ())
        return SaliencyLogits(
            maps,
            tuple(_each(self.heads_rgb, levels_rgb)),
            tuple(_each(self.heads_aux, levels_aux)),
        )


def _stood_in(levels: list[Tensor], stand_ins: Any, picture: Tensor) -> list[Tensor]:
    if stand_ins is None:
        return levels
    return [
        stand_in(level, picture, channel=1)
        for level, stand_in in zip(levels, stand_ins, strict=True)
    ]


def _each(modules: nn.ModuleList, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [module(x) for module, x in zip(modules, inputs, strict=True)]


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
