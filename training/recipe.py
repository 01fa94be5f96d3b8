"""A recipe: every choice of a training run, in one YAML file, saved beside each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from model.config import ReIDConfig, SaliencyConfig, Task
from training.data.reid_sets import Layout
from training.losses import Bce, Triplet

Convention = Literal["auto", "near_bright", "near_dark", "metric"]
"""A `DepthConvention`, or that it is to be found out."""


@dataclass(frozen=True)
class DataRecipe:
    """Where saliency samples come from. Relative paths are relative to the working directory."""

    source: Literal["foregrounds", "triples"]
    """`foregrounds`: photos with masks, depth simulated; `triples`: `rgb/ depth/ gt/` folders."""
    roots: tuple[Path, ...]
    """Folders of photos or triples; several are trained on together."""
    shares: dict[str, float] = field(default_factory=dict)
    """How much more often than by the square root of its count a set is drawn, by its name
    (`foregrounds` only)."""
    backgrounds: Path | None = None
    """Pictures to paste objects onto (`foregrounds` only)."""
    names: Path | None = None
    """List of the triples to train on, one a line (`triples` only); none: all in the folders."""
    expected: int | None = None
    """How many triples that must be, validation's share included (`triples` only)."""
    val_root: Path | None = None
    """Validation triples (`triples` only); none: 5 % of the training triples, by a hash."""
    depth_convention: Convention = "auto"
    """How `triples` write depth; `auto`: found out for each set, and logged with its evidence."""
    cache: Path | None = None
    """Folder that keeps decoded training triples for later epochs and runs, at 8 bytes a pixel
    (`triples` only); none: they are decoded every time."""


@dataclass(frozen=True)
class ReIDDataRecipe:
    """Where re-identification crops come from. Paths are relative to the working directory."""

    source: Layout
    """How the data set lies on disk."""
    roots: tuple[Path, ...]
    """One folder, the data set's."""
    val_share: float = 0.1
    """Share of the training identities, by a hash of their names, that validates; two at least."""
    synchronous: bool = True
    """Whether flip, zoom, shift and erasing move both modalities alike."""

    def __post_init__(self) -> None:
        if len(self.roots) != 1:
            raise ValueError(f"re-identification trains on one data set, got {len(self.roots)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run: what both tasks choose. Defaults suit the compact presets on a CPU."""

    task: ClassVar[Task]

    preset: str
    """Architecture to start from; its task is the recipe's."""
    config: dict[str, Any] = field(default_factory=dict)
    """Changes to the preset, by field of `SaliencyConfig` or `ReIDConfig`."""
    trunk_weights: Path | None = None
    """timm weights (`.safetensors`) that both trunks start from; none: random."""
    pretrained: bool = False
    """Whether both trunks start from timm's own weights, downloaded when the run starts."""
    start_from: Path | None = None
    """Checkpoint to start from instead, of the same architecture. Stand-ins may be added, and
    identities be others: both start anew."""
    trunk_blend: float = 0.0
    """Share of `trunk_weights` that is mixed into the trunks of `start_from`, in [0, 1]: what they
    knew before and the task's data do not show comes back (Wortsman et al., CVPR 2022)."""
    frozen: tuple[str, ...] = ()
    """Parameters and statistics that never change, by prefix of their module's name."""
    sizes: tuple[int, ...] = (256,)
    """Heights of the training pictures in pixels, multiples of 32 (re-identification: 16); one is
    drawn per step. They are square for saliency, else of the aspect of `input_size`."""
    batch_size: int = 16
    """Samples in one forward pass of a process; batch norms see as many."""
    accumulate: int = 1
    """Forward passes per step; their gradients are averaged."""
    processes: int = 1
    """On a CPU, how many train together, each on its share of the cores; GPUs are all used. Under
    torchrun it says how many, on each of its nodes."""
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
    smoothing: float = 0.0
    """Label smoothing: share of a cross-entropy's targets that is spread over all classes (object
    and ground, or the identities), in [0, 1)."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    ema_decay: float = 0.998
    """Of the averaged weights that are validated and saved."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """Arithmetic of forward and backward; `16-mixed`, float16 with a scaled loss, needs a GPU."""
    compile: bool = False
    """Whether torch.compile makes the network's kernels; each of `sizes` costs a compilation."""
    drop_aux: float = 0.0
    """Probability that a sample has no depth or near-infrared: it is 0 everywhere."""
    drop_rgb: float = 0.0
    """Probability that a sample which has the other has no colour: it is black."""
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

    def __post_init__(self) -> None:
        if self.pretrained and self.trunk_weights:
            raise ValueError("trunk_weights and pretrained exclude each other")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")
        for name in ("drop_aux", "drop_rgb", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    @staticmethod
    def load(path: Path, **changes: Any) -> SaliencyRecipe | ReIDRecipe:
        """Read a YAML file; `changes` replace its fields, `data.roots` those of a section.

        Raises:
            ValueError: not a mapping, a key is unknown, or a value is of the wrong kind; the
                message names it.
        """
        values = yaml.safe_load(path.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping, got {type(values).__name__}")
        return Recipe.from_dict(changed(values, changes))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> SaliencyRecipe | ReIDRecipe:
        """Inverse of `to_dict`; errors as in `load`."""
        data = values.get("data")
        if not isinstance(data, dict) or not {"source", "roots"} <= set(data):
            raise ValueError("expected a `data` section with `source` and `roots`")
        preset = values.get("preset", "saliency-compact")
        recipe: SaliencyRecipe | ReIDRecipe
        if preset in ReIDConfig.presets:
            reid_data = ReIDDataRecipe(**_known(ReIDDataRecipe, data, "data."))
            recipe = ReIDRecipe(**{**_known(ReIDRecipe, values), "data": reid_data})
        elif preset in SaliencyConfig.presets:
            triples = DataRecipe(**_known(DataRecipe, data, "data."))
            recipe = SaliencyRecipe(**{**_known(SaliencyRecipe, values), "data": triples})
        else:
            known = (*SaliencyConfig.presets, *ReIDConfig.presets)
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(known)}")
        recipe.network_config()  # names what is unknown in `config`
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)  # noqa: S101 - asdict answers one
        return plain


@dataclass(frozen=True, kw_only=True)
class SaliencyRecipe(Recipe):
    """A run of the saliency task."""

    task: ClassVar[Task] = "saliency"

    data: DataRecipe
    preset: str = "saliency-compact"
    bce: Bce = "weighted"
    """Cross-entropy inside the structure loss."""
    focal_weight: float = 0.5
    """Weight of the supervision of each stream."""

    def network_config(self) -> SaliencyConfig:
        """The preset with this recipe's changes."""
        base = SaliencyConfig.preset(self.preset).to_dict()
        return SaliencyConfig.from_dict({**base, **self.config})


@dataclass(frozen=True, kw_only=True)
class ReIDRecipe(Recipe):
    """A run of the re-identification task."""

    task: ClassVar[Task] = "reid"

    data: ReIDDataRecipe
    preset: str = "reid-compact"
    instances: int = 4
    """Pictures of each identity in a batch; divides `batch_size`."""
    triplet: Triplet = "soft_margin"
    """`soft_margin`: TransReID's; `hard`: hinge with a margin of 0.3."""
    triplet_weight: float = 1.0
    """Weight of the triplet loss beside the cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.instances:
            raise ValueError(
                f"instances must divide batch_size, got {self.instances} and {self.batch_size}"
            )

    def network_config(self) -> ReIDConfig:
        """The preset with this recipe's changes; classes are set from the data."""
        base = ReIDConfig.preset(self.preset).to_dict()
        return ReIDConfig.from_dict({**base, **self.config})


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `values` in which each of `changes` is set; `a.b` is the key b of the section a."""
    result = dict(values)
    for path, value in changes.items():
        section, dot, rest = path.partition(".")
        if not dot:
            result[section] = value
            continue
        inner = result.get(section) or {}
        if not isinstance(inner, dict):
            raise ValueError(f"{section} is no section, so it has no {path}")
        result[section] = changed(inner, {rest: value})
    return result


def differences(before: Mapping[str, Any], now: Mapping[str, Any], section: str = "") -> list[str]:
    """Each key that two recipes, as `to_dict` answers them, do not share, with both values."""
    found = []
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{section}{key}.")
        elif old != new or (key in before) != (key in now):
            old, new = (
                repr(values[key]) if key in values else "absent" for values in (before, now)
            )
            found.append(f"{section}{key} was {old}, is now {new}")
    return found


def _known(kind: type, values: dict[str, Any], section: str = "") -> dict[str, Any]:
    hints = get_type_hints(kind)
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        names = ", ".join(section + name for name in sorted(map(str, unknown)))
        raise ValueError(f"unknown recipe keys: {names}")
    return {
        key: value if key == "data" else _typed(section + key, value, hints[key])
        for key, value in values.items()
    }


def _typed(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; YAML has no paths and tuples, and takes 1e-3 for a word."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        if value not in choices:
            raise ValueError(f"{key} must be one of {', '.join(choices)}, got {value!r}")
        return value
    if get_origin(hint) in (Union, UnionType):  # with None
        return None if value is None else _typed(key, value, choices[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key}: expected a list, got {value!r}")
        return tuple(_typed(key, entry, choices[0]) for entry in value)
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{key}: expected a mapping, got {value!r}")
        return {name: _typed(f"{key}.{name}", entry, choices[1]) for name, entry in value.items()}
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{key}: expected a number, got {value!r}") from None
    if hint is Any or type(value) is hint:
        return value
    raise ValueError(f"{key}: expected {hint.__name__}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
