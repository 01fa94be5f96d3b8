"""Architecture choices, saved inside every checkpoint and bundle; needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

Fusion = Literal["cda", "ca", "concat", "ca_cda"]
Form = Literal["published", "paper"]
Implementation = Literal["auto", "plain", "blocked", "sdpa", "flex", "triton"]
Decoder = Literal["cascaded", "light"]
Trunk = Literal["vit", "cnn"]
Task = Literal["saliency", "reid"]


class _Config:
    """What both configurations share: presets, and plain values for JSON."""

    presets: ClassVar[dict[str, dict[str, Any]]]
    task: ClassVar[Task]

    @classmethod
    def preset(cls, name: str) -> Self:
        """The preset of this name; an unknown one is a `ValueError` that lists the known."""
        if name not in cls.presets:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(cls.presets)}")
        return cls.from_dict({"name": name, **cls.presets[name]})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)  # type: ignore[call-overload,no-any-return] # a dataclass, always

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; an unknown key is a `ValueError` that names it."""
        unknown = set(values) - {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown:
            raise ValueError(f"unknown configuration keys: {', '.join(sorted(unknown))}")
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class SaliencyConfig(_Config):
    """The RGB-D saliency network.

    Sizes are (height, width) in pixels; strides are pixels of input per feature cell.
    """

    task: ClassVar[Task] = "saliency"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "saliency-compact": {
            "backbone": "mobilenetv2_100",
            "backbone_args": {"pad_type": "same"},
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "embed_dim": 96,
            "num_heads": 6,
            "decoder": "light",
        },
        # Mutual fusion at every level, down to 6400 tokens at 320 pixels, where N x N affinities
        # would take 2 GB: needs an implementation of linear memory, see `model.kernels`.
        "saliency-compact-fine": {
            "backbone": "mobilenetv2_100",
            "backbone_args": {"pad_type": "same"},
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "embed_dim": 96,
            "num_heads": 6,
            "fusion_strides": (4, 8, 16, 32),
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
        # The same network on a trunk of 2022 that reads globally from its first level.
        "saliency-pvtv2-b2": {
            "backbone": "pvt_v2_b2",
            "backbone_args": {},
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        },
    }

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
    """Levels fused by MutualFormer blocks; the others concatenate and convolve. Tokens are H W /
    stride^2; memory is linear in them, except for `ca_cda` and in an exported graph."""
    decoder: Decoder = "cascaded"
    """`cascaded`: F3Net's two rounds of cross feature modules; `light`: separable convolutions."""
    decoder_dim: int = 64
    """Channels in the decoder."""
    stand_in: bool = False
    """Whether features learned for it take the place of a modality that is 0 everywhere."""

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


STRIDES = (4, 8, 16, 32)
"""Feature levels that a saliency network reads from its trunks."""


@dataclass(frozen=True)
class ReIDConfig(_Config):
    """The RGB-NIR re-identification network.

    Sizes are (height, width) in pixels.
    """

    task: ClassVar[Task] = "reid"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "reid-compact": {
            "backbone": "mobilenetv2_100",
            "backbone_args": {"pad_type": "same"},
            "trunk": "cnn",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "embed_dim": 192,
            "num_heads": 6,
        },
        # Reconstruction: the published shape comments show 257 tokens of 768 and 12 heads; that
        # both modalities share one trunk, and one block, is chosen here.
        "reid-vit-base": {
            "backbone": "vit_base_patch16_224",
            "backbone_args": {},
            "trunk": "vit",
            "shared_trunk": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "embed_dim": 768,
            "num_heads": 12,
        },
    }

    name: str
    """Preset or experiment name; becomes the bundle's name."""
    backbone: str
    """Any timm ViT, or any timm model that offers `features_only` at stride 16."""
    backbone_args: dict[str, Any]
    """Passed to `timm.create_model`, e.g. `{"pad_type": "same"}`."""
    trunk: Trunk
    """`vit`: its tokens, the class token first; `cnn`: the cells of its last map at stride 16."""
    mean: tuple[float, float, float]
    """Subtracted from RGB, and from NIR repeated thrice, in [0, 1]."""
    std: tuple[float, float, float]
    """Divides what `mean` leaves."""
    shared_trunk: bool = False
    """Whether one trunk reads both modalities."""
    patch_stride: int | None = None
    """Pixels between patches of a `vit`; less than the patch's side overlaps them (TransReID)."""
    input_size: tuple[int, int] = (256, 256)
    """Height and width that an export of this network fixes."""
    embed_dim: int = 160
    """Width of the tokens; a `vit` must have it, a `cnn` is squeezed to it."""
    num_heads: int = 8
    """Attention heads of the MutualFormer blocks; divides `embed_dim`."""
    depth: int = 1
    """MutualFormer blocks in a row."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over `embed_dim`."""
    drop_path: float = 0.0
    """Probability of dropping a residual branch of blocks and `vit` for a sample in training."""
    fusion: Fusion = "cda"
    """Mixer of the blocks; see `model.attention`."""
    form: Form = "published"
    """Form of cross-diffusion attention."""
    alpha: float = 0.6
    """Weight of the diffused affinity against the prior, in [0, 1]."""
    steps: int = 1
    """Diffusion steps."""
    num_classes: int = 0
    """Identities of the classifiers that training needs; 0: none."""
    num_cameras: int = 0
    """Cameras or views with a learned embedding each (TransReID's side information); 0: none."""
    camera_weight: float = 3.0
    """Factor of that embedding; 3 in TransReID."""
    stand_in: bool = False
    """Whether a token learned for it takes the place of a modality that is 0 everywhere."""
    jigsaw: int = 0
    """Groups of shuffled patches with a feature each (TransReID's jigsaw patch module, which has
    4), of a `vit`; 0: none."""

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {self.num_heads} and {self.embed_dim}"
            )
        if any(side % 16 for side in self.input_size):
            raise ValueError(f"input_size must be multiples of 16, got {self.input_size}")
        if self.patch_stride is not None and self.trunk != "vit":
            raise ValueError("patch_stride is for a vit trunk")
        if self.jigsaw and (self.trunk != "vit" or self.jigsaw < 2):
            raise ValueError(f"jigsaw is for a vit trunk, 2 groups or more, got {self.jigsaw}")

    @property
    def embedding_dim(self) -> int:
        """Numbers in an embedding: the fused, the rgb and the aux part, and each `jigsaw` group."""
        return (3 + self.jigsaw) * self.embed_dim


Config = SaliencyConfig | ReIDConfig

CONFIGS: dict[Task, type[SaliencyConfig] | type[ReIDConfig]] = {
    "saliency": SaliencyConfig,
    "reid": ReIDConfig,
}
"""The configuration of each task."""
