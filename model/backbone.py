"""timm trunks: pictures in, feature pyramids out. Building one never downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
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
        own = self.trunk.state_dict()
        state = {
            key: value
            for key, value in load_file(path).items()
            if key in own or not key.startswith(HEAD_PREFIXES)
        }
        for key, value in state.items():
            if key in own and value.ndim == 4 and own[key].shape[1] == 1 != value.shape[1] == 3:
                state[key] = value.sum(dim=1, keepdim=True)
        try:
            self.trunk.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit the trunk: {error}") from error
