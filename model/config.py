"""Architecture choices, saved inside every checkpoint and bundle; needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Fusion = Literal["cda", "ca", "concat", "ca_cda"]
Form = Literal["published", "paper"]
Decoder = Literal["cascaded", "light"]


@dataclass(frozen=True)
class SaliencyConfig:
    """The RGB-D saliency network.

    Sizes are (height, width) in pixels; strides are pixels of input per feature cell.
    """

    name: str
    """Preset or experiment name; becomes the bundle's name."""
    backbone: str
    """Any timm model that offers `features_only` at strides 4, 8, 16 and 32."""
    backbone_args: dict[str, Any]
    """Passed to `timm.create_model`, e.g. `{"pad_type": "same"}`."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in [0, 1]; the trunk's own preprocessing."""
    std: tuple[float, float, float]
    """Divides RGB after `mean`."""
    input_size: tuple[int, int] = (320, 320)
    """Height and width that an export of this network fixes."""
    embed_dim: int = 128
    """Width of squeezed features and of the tokens in MutualFormer blocks."""
    num_heads: int = 8
    """Attention heads; divides `embed_dim`."""
    depth: int = 1
    """MutualFormer blocks in a row at each of `fusion_strides`."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over `embed_dim`."""
    drop_path: float = 0.0
    """Probability of dropping a block's residual branch for a sample in training."""
    fusion: Fusion = "cda"
    """Mixer of the blocks; see `model.attention`."""
    form: Form = "published"
    """Form of cross-diffusion attention."""
    alpha: float = 0.6
    """Weight of the diffused affinity against the prior, in [0, 1]."""
    steps: int = 1
    """Diffusion steps."""
    fusion_strides: tuple[int, ...] = (16, 32)
    """Levels fused by MutualFormer blocks; the others concatenate and convolve."""
    decoder: Decoder = "cascaded"
    """`cascaded`: F3Net's two rounds of cross feature modules; `light`: separable convolutions."""
    decoder_dim: int = 64
    """Channels in the decoder."""

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {self.num_heads} and {self.embed_dim}"
            )
        unknown = set(self.fusion_strides) - set(STRIDES)
        if unknown:
            raise ValueError(f"fusion_strides must be among {STRIDES}, got {sorted(unknown)}")
        if any(side % 32 for side in self.input_size):
            raise ValueError(f"input_size must be multiples of 32, got {self.input_size}")

    @classmethod
    def preset(cls, name: str) -> Self:
        """The named preset: `saliency-compact` or `saliency-resnet50`."""
        if name not in SALIENCY_PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(SALIENCY_PRESETS)}")
        return cls(name=name, **SALIENCY_PRESETS[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; an unknown key is a `ValueError` that names it."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown configuration keys: {', '.join(sorted(unknown))}")
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})


STRIDES = (4, 8, 16, 32)
"""Feature levels that a saliency network reads from its trunks."""

SALIENCY_PRESETS: dict[str, dict[str, Any]] = {
    "saliency-compact": {
        "backbone": "mobilenetv2_100",
        "backbone_args": {"pad_type": "same"},
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "embed_dim": 96,
        "num_heads": 6,
        "decoder": "light",
    },
    # Reconstruction: widths and depth chosen to meet the published 52.05 M parameters with the
    # 8 heads that the published code's shape comments show.
    "saliency-resnet50": {
        "backbone": "resnet50",
        "backbone_args": {},
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "depth": 2,
    },
}
