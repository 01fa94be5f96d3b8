"""A recipe: every choice of a training run, in one YAML file, saved beside each checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from model.config import SaliencyConfig
from model.preprocessing import DepthConvention
from training.losses import Bce


@dataclass(frozen=True)
class DataRecipe:
    """Where samples come from. Relative paths are relative to the working directory."""

    source: Literal["foregrounds", "triples"]
    """`foregrounds`: photos with masks, depth simulated; `triples`: `rgb/ depth/ gt/` folders."""
    roots: tuple[Path, ...]
    """Folders of photos or triples; several are trained on together."""
    shares: dict[str, float] = field(default_factory=dict)
    """How much more often than by the square root of its count a set is drawn, by its name
    (`foregrounds` only)."""
    backgrounds: Path | None = None
    """Pictures to paste objects onto (`foregrounds` only)."""
    val_root: Path | None = None
    """Validation triples (`triples` only); none: 5 % of the training triples, by a hash."""
    depth_convention: DepthConvention = "near_bright"
    """How `triples` write depth."""


@dataclass(frozen=True)
class Recipe:
    """One training run. Defaults suit the compact preset on a CPU."""

    data: DataRecipe
    preset: str = "saliency-compact"
    """Architecture to start from."""
    config: dict[str, Any] = field(default_factory=dict)
    """Changes to the preset, by field of `SaliencyConfig`."""
    trunk_weights: Path | None = None
    """timm weights (`.safetensors`) that both trunks start from; none: random."""
    start_from: Path | None = None
    """Checkpoint to start from instead; its configuration must be the same."""
    trunk_blend: float = 0.0
    """Share of `trunk_weights` that is mixed into the trunks of `start_from`, in [0, 1]: what they
    knew before and the task's data do not show comes back (Wortsman et al., CVPR 2022)."""
    frozen: tuple[str, ...] = ()
    """Parameters and statistics that never change, by prefix of their module's name."""
    sizes: tuple[int, ...] = (256,)
    """Sides of the square training pictures in pixels; one is drawn per step."""
    batch_size: int = 16
    """Samples per step and process."""
    processes: int = 1
    """On a CPU, how many train together, each on its share of the cores; GPUs are all used."""
    steps: int = 3000
    """Updates in all."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """`sgd` has Nesterov momentum 0.9."""
    lr: float = 1e-3
    """Peak learning rate."""
    trunk_lr_scale: float = 0.2
    """Learning rate of the trunks over `lr`."""
    weight_decay: float = 0.01
    """On matrices and kernels; biases and norms have none."""
    warmup_steps: int = 100
    """Linear rise to `lr`, then a cosine to zero."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    ema_decay: float = 0.998
    """Of the averaged weights that are validated and saved."""
    bce: Bce = "weighted"
    """Cross-entropy inside the structure loss."""
    focal_weight: float = 0.5
    """Weight of the supervision of each stream."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of forward and backward."""
    workers: int = 2
    """Processes that prepare samples; 0 prepares them in the training process."""
    seed: int = 0
    """Of initial weights, samples and drop path."""
    validate_every: int = 500
    """Steps between validations; the best is kept."""
    save_every: int = 100
    """Steps between states to resume from."""
    licence: str = ""
    """Note on the terms of data and initial weights, saved with the checkpoint."""

    @classmethod
    def load(cls, path: Path, **changes: Any) -> Self:
        """Read a YAML file; `changes` replace its fields.

        Raises:
            ValueError: not a mapping, or a key is unknown; the message names it.
        """
        values = yaml.safe_load(path.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping, got {type(values).__name__}")
        return cls.from_dict({**values, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; an unknown key is a `ValueError` that names it."""
        data = values.get("data")
        if not isinstance(data, dict) or not {"source", "roots"} <= set(data):
            raise ValueError("expected a `data` section with `source` and `roots`")
        data = _known(DataRecipe, data)
        return cls(**{**_known(cls, values), "data": DataRecipe(**data)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)  # noqa: S101 - asdict answers one
        return plain

    def network_config(self) -> SaliencyConfig:
        """The preset with this recipe's changes."""
        base = SaliencyConfig.preset(self.preset).to_dict()
        return SaliencyConfig.from_dict({**base, **self.config})


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    types = {f.name: str(f.type) for f in fields(kind)}
    unknown = set(values) - set(types)
    if unknown:
        raise ValueError(f"unknown recipe keys: {', '.join(sorted(unknown))}")
    return {key: _typed(value, types[key]) for key, value in values.items()}


def _typed(value: Any, annotation: str) -> Any:
    if annotation.startswith("tuple[") and not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, got {value!r}")
    if annotation.startswith("tuple[Path"):
        return tuple(Path(entry) for entry in value)
    if value is not None and annotation.startswith("Path"):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
