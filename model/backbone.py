"""timm trunks: pictures in, feature pyramids or tokens out. Building one downloads nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from model.config import STRIDES

HEAD_PREFIXES = ("conv_head.", "bn2.", "classifier.", "head.", "fc.")
"""Parameters of an ImageNet classifier that a feature pyramid has no use for."""


class Pyramid(nn.Module):
    """A timm trunk that answers its features at strides 4, 8, 16 and 32.

    Args:
        name: timm model that offers `features_only`.
        in_channels: 3 for colour, 1 for depth.
        args: passed to `timm.create_model`.

    Raises:
        ValueError: the model is unknown or has no level at one of the strides.
    """

    def __init__(self, name: str, in_channels: int, args: dict[str, Any] | None = None) -> None:
        super().__init__()
        try:
            probe: Any = timm.create_model(
                name, pretrained=False, features_only=True, **(args or {})
            )
        except RuntimeError as error:
            raise ValueError(f"timm has no pyramid {name!r}: {error}") from error
        reductions = list(probe.feature_info.reduction())
        if not set(STRIDES) <= set(reductions):
            raise ValueError(f"{name!r} has levels at strides {reductions}, needs {STRIDES}")
        # The deepest level at each stride.
        levels = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        self.trunk: nn.Module = timm.create_model(
            name,
            pretrained=False,
            features_only=True,
            in_chans=in_channels,
            out_indices=tuple(probe.feature_info.out_indices[level] for level in levels),
            **(args or {}),
        )
        self.channels: tuple[int, ...] = tuple(self.trunk.feature_info.channels())  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised (B, in_channels, H, W) -> one (B, channels[i], H/s, W/s) for each stride s."""
        features: list[Tensor] = self.trunk(x)
        return features

    def load_weights(self, path: Path) -> None:
        """Load a classifier's or a pyramid's weights from a `.safetensors` file in timm's names.

        A first convolution over three channels is summed where this trunk takes one, which
        answers as if the grey picture were repeated.

        Raises:
            ValueError: a parameter is missing, misshapen or unknown; the message names it.
        """
        _load_trunk(self.trunk, load_file(path), str(path))

    def load_pretrained(self, name: str) -> None:
        """Download timm's weights for the model `name`, and load them as `load_weights` does."""
        state = timm.create_model(name, pretrained=True).state_dict()
        _load_trunk(self.trunk, state, f"the weights of {name}")


class InterleavedConv(nn.Conv2d):
    """A depthwise convolution dilated by 2: in training, a plain one on four interleaved grids.

    The same sums. On a CPU, oneDNN's backward pass of the dilated one is 20 times slower, and takes
    half of a training step of MobileNetV2 at stride 16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        B, C, H, W = x.shape
        h, w = (H + 1) // 2, (W + 1) // 2
        x = F.pad(x, (0, 2 * w - W, 0, 2 * h - H))
        grids = x.permute(0, 2, 3, 1).reshape(B, h, 2, w, 2, C).permute(2, 4, 0, 5, 1, 3)
        grids = grids.reshape(4 * B, C, h, w).contiguous(memory_format=torch.channels_last)
        padding = (self.padding[0] // 2, self.padding[1] // 2)  # type: ignore[operator] # of ints
        grids = F.conv2d(grids, self.weight, self.bias, padding=padding, groups=self.groups)
        x = grids.reshape(2, 2, B, C, h, w).permute(2, 4, 0, 5, 1, 3).reshape(B, 2 * h, 2 * w, C)
        return x.permute(0, 3, 1, 2)[:, :, :H, :W]


class CnnTokens(nn.Module):
    """A timm CNN whose last map at stride 16 is squeezed and read as tokens.

    Args:
        name: timm model that offers `features_only` with `output_stride=16`.
        dim: width of the tokens.
        args: passed to `timm.create_model`.

    Raises:
        ValueError: the model is unknown or cannot stay at stride 16.
    """

    def __init__(self, name: str, dim: int, args: dict[str, Any] | None = None) -> None:
        super().__init__()
        try:
            self.trunk: nn.Module = timm.create_model(
                name,
                pretrained=False,
                features_only=True,
                output_stride=16,
                out_indices=(-1,),
                **(args or {}),
            )
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise ValueError(f"timm has no {name!r} at stride 16: {error}") from error
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d) and module.dilation == (2, 2) and module.groups > 1:
                module.__class__ = InterleavedConv
        (channels,) = self.trunk.feature_info.channels()  # type: ignore[operator, union-attr]
        self.squeeze = nn.Conv2d(channels, dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> (B, H/16 * W/16, dim)."""
        (features,) = self.trunk(x)
        tokens: Tensor = self.norm(self.squeeze(features)).flatten(2).transpose(1, 2)
        return tokens

    def load_weights(self, path: Path) -> None:
        """Load a classifier's or a pyramid's weights from a `.safetensors` file in timm's names.

        Raises:
            ValueError: a parameter is missing, misshapen or unknown; the message names it.
        """
        _load_trunk(self.trunk, load_file(path), str(path))

    def load_pretrained(self, name: str) -> None:
        """Download timm's weights for the model `name`, and load them as `load_weights` does."""
        state = timm.create_model(name, pretrained=True).state_dict()
        _load_trunk(self.trunk, state, f"the weights of {name}")


class VitTokens(nn.Module):
    """A timm vision transformer: the class token, then one token a patch.

    Args:
        name: timm ViT.
        size: (height, width) of the pictures in pixels, multiples of the patch's side unless
            patches overlap.
        stride: pixels between patches; none: their side.
        drop_path: largest probability of dropping a residual branch, reached at the last layer.
        args: passed to `timm.create_model`.

    Raises:
        ValueError: the model is unknown or has no class token.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        stride: int | None = None,
        drop_path: float = 0.0,
        args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            trunk: Any = timm.create_model(
                name,
                pretrained=False,
                num_classes=0,
                global_pool="token",
                img_size=size,
                drop_path_rate=drop_path,
                **(args or {}),
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"timm has no ViT {name!r}: {error}") from error
        if getattr(trunk, "num_prefix_tokens", 0) != 1 or trunk.pos_embed is None:
            raise ValueError(f"{name!r} has no class token or no position embedding")
        if stride is not None:
            _overlap(trunk, size, stride)
        self.trunk = trunk
        self.dim: int = trunk.embed_dim
        self.grid: tuple[int, int] = trunk.patch_embed.grid_size

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> (B, 1 + patches, dim)."""
        tokens: Tensor = self.trunk.forward_features(x)
        return tokens

    def load_weights(self, path: Path) -> None:
        """Load a ViT's weights from a `.safetensors` file in timm's names; see `load_state`."""
        self.load_state(load_file(path), str(path))

    def load_pretrained(self, name: str) -> None:
        """Download timm's weights for the model `name`; see `load_state`."""
        state = timm.create_model(name, pretrained=True).state_dict()
        self.load_state(state, f"the weights of {name}")

    def load_state(self, state: dict[str, Tensor], origin: str) -> None:
        """Load weights; position embeddings are resized to this trunk's grid.

        Raises:
            ValueError: a parameter is missing, misshapen or unknown; the message names it.
        """
        position = state.get("pos_embed")
        if position is not None and position.shape[1] != 1 + self.grid[0] * self.grid[1]:
            state = {
                **state,
                "pos_embed": resample_abs_pos_embed(
                    position, new_size=list(self.grid), num_prefix_tokens=1
                ),
            }
        _load_trunk(self.trunk, state, origin)


def _overlap(trunk: Any, size: tuple[int, int], stride: int) -> None:
    """Move patches by `stride` in place of their side, and make room for their positions."""
    embed = trunk.patch_embed
    side = embed.patch_size[0]
    if not 0 < stride <= side:
        raise ValueError(f"patch_stride must be 1 to {side}, the patch's side, got {stride}")
    embed.proj.stride = (stride, stride)
    embed.grid_size = tuple((length - side) // stride + 1 for length in size)
    embed.num_patches = embed.grid_size[0] * embed.grid_size[1]
    trunk.pos_embed = nn.Parameter(torch.zeros(1, 1 + embed.num_patches, trunk.embed_dim))
    nn.init.trunc_normal_(trunk.pos_embed, std=0.02)


def _load_trunk(trunk: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load strictly, but for what only a classifier has, and for grey first convolutions."""
    own = trunk.state_dict()
    # A pyramid of timm's names the stages of a transformer `stages_0`, a classifier `stages.0`.
    flat = {key: re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key) for key in state}
    state = {
        flat[key] if key not in own and flat[key] in own else key: value
        for key, value in state.items()
    }
    state = {
        key: value
        for key, value in state.items()
        if key in own or not key.startswith(HEAD_PREFIXES)
    }
    for key, value in state.items():
        if key in own and value.ndim == 4 and own[key].shape[1] == 1 != value.shape[1] == 3:
            state[key] = value.sum(dim=1, keepdim=True)
    try:
        trunk.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{origin} does not fit the trunk: {error}") from error
