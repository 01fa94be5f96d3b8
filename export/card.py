"""The model card of a bundle: what the network is, how it was trained, what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from model.checkpoint import Checkpoint
from model.config import ReIDConfig, SaliencyConfig, Task

_SALIENCY_LIMITS = """\
- The pair must show the same scene from the same place, pixel on pixel.
- Pictures are resized to {height} x {width}; objects of a few pixels there are lost.
- Depth is scaled per picture; a sensor that is blind at the object misleads less than one that
  invents a surface.
- It answers what stands out, not what an object is, and always answers something.
- Nothing beyond the sets above was measured. Not for decisions about the safety or rights of
  people.
"""

_REID_LIMITS = """\
- A pair is one crop, cut out by a detector, of the same moment in both pictures, pixel on pixel.
- Crops are resized to {height} x {width} whatever their shape, so cut them as the training crops
  were.
- Near-infrared is divided by the full range of its 8 or 16 bits, never by what it holds: values of
  a 12-bit camera must be scaled up first.
- A cosine is not a probability. Choose its threshold on pairs of your own cameras, and choose it
  again for another version: embeddings of two versions do not compare.
- Nothing beyond the sets above was measured. Finding people or their vehicles again touches their
  rights; not for decisions about either without a person who looks.
"""

LIMITS: dict[Task, str] = {"saliency": _SALIENCY_LIMITS, "reid": _REID_LIMITS}
"""What holds for every network of a task."""

_SUMMARIES: dict[Task, str] = {
    "saliency": """\
RGB-D salient object detection with MutualFormer blocks: a registered colour picture and depth map
in, a map of how much each pixel belongs to what stands out, from 0 to 1.""",
    "reid": """\
RGB-NIR re-identification with MutualFormer blocks: a colour crop and the near-infrared crop of the
same moment in, an embedding of unit length out; the more alike two embeddings (their cosine), the
more likely they show the same individual.""",
}

_CARD = """\
# {name} {version}

{summary}

| | |
|---|---|
| parameters | {parameters:.2f} M |
| input `rgb` | uint8 (B, {height}, {width}, 3) |
| input `aux` | float32 (B, {height}, {width}, 1) in [0, 1], {aux} |
| without `aux` | {without} |
| output `{output}` | {answer} |
| network | {network} |
| graph | ONNX opset {opset}, {precision} products, weights stored as {weights_precision} |

Network: Wang et al., "MutualFormer: Multi-Modality Representation Learning via Cross-Diffusion
Attention", IJCV 2024, doi:10.1007/s11263-024-02067-x; {reconstructed} and training are this
project's own reconstruction.

## Training

{training}

## Quality

{quality}

## Conversion

Difference of the answers after each step, on eight formula-made pairs.

{conversion}

## Limits

{limits}

## Licence

{licence}

Digests of every file are in `manifest.json`.
"""

_WITHOUT = {
    "reject": "the service refuses a pair",
    "substitute": "the service takes zeros in its place, as training did, and says so",
}
"""What a `modality_policy` means."""

_SOURCES = {
    "foregrounds": "photos with masks, depth simulated",
    "triples": "colour, depth and mask",
    "vehicles": "colour crops of vehicles by two cameras, near-infrared simulated",
}
"""What a recipe's `data.source` holds; other sources are layouts of re-identification sets."""

_RECIPE_ROWS = {
    "preset": "preset",
    "steps": "steps",
    "batch_size": "batch size",
    "sizes": "picture sizes",
    "optimiser": "optimiser",
    "lr": "peak learning rate",
    "weight_decay": "weight decay",
    "ema_decay": "weight averaging",
    "precision": "precision",
    "drop_aux": "share of samples without depth or near-infrared",
    "drop_rgb": "share of samples without colour",
    "seed": "seed",
}
"""Fields of a recipe that a reader asks for first, and what the card calls them."""


def write_card(
    checkpoint: Checkpoint,
    manifest: Mapping[str, Any],
    parity: Mapping[str, Any],
    notes: str | None = None,
) -> str:
    """The card as Markdown.

    Args:
        checkpoint: where the weights come from.
        manifest: fields of the bundle's manifest.
        parity: content of `parity.json`.
        notes: Markdown that takes the place of the general limits.
    """
    config = checkpoint.config
    height, width = manifest["input_size"]
    if isinstance(config, ReIDConfig):
        kind = {
            "aux": "near-infrared, its full range",
            "answer": f"float32 (B, {manifest['dim']}), unit length",
            "network": _reid_network(config),
            "reconstructed": "trunks, embedding",
        }
    else:
        kind = {
            "aux": "near = 1, missing = 0",
            "answer": f"float32 (B, {height}, {width}) in [0, 1]",
            "network": _saliency_network(config),
            "reconstructed": "trunks, decoder",
        }
    return _CARD.format(
        **kind,
        summary=_SUMMARIES[config.task],
        name=manifest["name"],
        version=manifest["version"],
        parameters=sum(value.numel() for value in checkpoint.build().parameters()) / 1e6,
        height=height,
        width=width,
        output=manifest["output"],
        opset=manifest["opset"],
        precision=manifest["precision"],
        weights_precision=manifest["weights_precision"],
        without=_WITHOUT[manifest["modality_policy"]],
        training=_training(checkpoint, manifest["training_data"]),
        quality=_quality(manifest["metrics"]),
        conversion=_conversion(parity),
        limits=(notes or LIMITS[config.task].format(height=height, width=width)).strip(),
        licence=manifest["licence"],
    )


def _saliency_network(config: SaliencyConfig) -> str:
    strides = " and ".join(map(str, config.fusion_strides)) or "none"
    return (
        f"{config.backbone} trunks, `{config.fusion}` fusion at strides {strides}, "
        f"`{config.decoder}` decoder"
    )


def _reid_network(config: ReIDConfig) -> str:
    trunks = "trunk, shared," if config.shared_trunk else "trunks,"
    return (
        f"{config.backbone} {trunks} {config.depth} block(s) of `{config.fusion}` fusion, "
        "the fused and both pooled streams joined"
    )


def training_data(recipe: Mapping[str, Any]) -> list[str]:
    """What a recipe trains on, one source a line; folders by their last name alone."""
    data = recipe.get("data")
    if not isinstance(data, Mapping):
        return []
    source = str(data.get("source"))
    kind = _SOURCES.get(source, f"crops laid out as {source}")
    lines = [f"{PurePath(root).name}: {kind}" for root in data.get("roots", ())]
    if data.get("backgrounds"):
        lines.append(f"{PurePath(data['backgrounds']).name}: backgrounds")
    for key, what in (("trunk_weights", "initial trunks"), ("start_from", "initial weights")):
        if recipe.get(key):
            lines.append(f"{PurePath(recipe[key]).name}: {what}")
    return lines


def _training(checkpoint: Checkpoint, data: list[str]) -> str:
    recipe = checkpoint.recipe
    if not recipe:
        return "The checkpoint names no recipe."
    rows = [(title, _plain(recipe[key])) for key, title in _RECIPE_ROWS.items() if key in recipe]
    rows.append(("source commit", checkpoint.commit or "unknown"))
    lines = [f"- {line}" for line in data]
    return "\n".join(["Data:", "", *lines, "", *_table(("choice", "value"), rows)])


def _quality(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return "Not measured."
    columns = list(dict.fromkeys(key for scores in metrics.values() for key in scores))
    rows = [
        (name, *(_number(scores[key]) if key in scores else "" for key in columns))
        for name, scores in metrics.items()
    ]
    return "\n".join(_table(("set", *columns), rows))


def _conversion(parity: Mapping[str, Any]) -> str:
    parts = _steps(parity["steps"])
    if "real" in parity:
        real = parity["real"]
        parts += ["", f"On {real['pairs']} pairs of {real['file']}:", ""]
        parts += _steps([step["real"] for step in parity["steps"] if "real" in step])
        if any(real["scores"].values()):
            columns = list(next(iter(real["scores"].values())))
            parts += [
                "",
                *_table(
                    ("form", *columns),
                    [
                        (name.replace("_", " "), *(f"{scores[key]:.4f}" for key in columns))
                        for name, scores in real["scores"].items()
                    ],
                ),
            ]
    if parity["not_run"]:
        parts += ["", "Not run: " + "; ".join(parity["not_run"]) + "."]
    return "\n".join(parts)


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    head: tuple[str, ...] = ("step", "max abs error", "allowed", "mean")
    rows: list[tuple[str, ...]] = [
        (
            step["step"].replace("_", " "),
            f"{step['max_abs_error']:.1e}",
            "measured" if step["tolerance"] is None else f"{step['tolerance']:.0e}",
            f"{step['mean_abs_error']:.1e}",
        )
        for step in steps
    ]
    if all("min_cosine" in step for step in steps):
        head = (*head, "least cosine")
        rows = [(*row, f"{step['min_cosine']:.7f}") for row, step in zip(rows, steps, strict=True)]
    return _table(head, rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
