"""Judge a model on folders of triples: scores per set, a JSON file, figure sheets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.bundle import BundleError, open_bundle
from model.checkpoint import load_checkpoint
from model.config import Task
from model.preprocessing import DepthConvention, prepare_depth, prepare_rgb
from model.runtimes.base import Runtime
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.pytorch import PyTorchRuntime
from training.data.triples import Triple, find_triples, read_depth, read_gt
from training.metrics import SaliencyScores

TILE = 192
"""Height and width of a picture in a figure sheet, in pixels."""


@dataclass(frozen=True)
class TripleSet:
    """A named folder of triples and how it writes depth."""

    name: str
    triples: Sequence[Triple]
    convention: DepthConvention


def find_sets(root: Path, near_dark: Sequence[str] = ()) -> list[TripleSet]:
    """The sets in `root`: its subfolders that hold triples, or `root` itself.

    Args:
        root: `<root>/<set>/{rgb,depth,gt}` or `<root>/{rgb,depth,gt}`, under any usual name.
        near_dark: names of the sets in which dark is near; the others have near bright.

    Raises:
        ValueError: nothing fits, or a name in `near_dark` is no set.
    """
    try:
        folders = {root.name: find_triples(root)}
    except ValueError as flat:
        children = (
            sorted(child for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
        )
        if not any(_is_set(child) for child in children):
            raise ValueError(f"{flat}; nor do its subfolders hold triples") from flat
        folders = {child.name: find_triples(child) for child in children}
    unknown = set(near_dark) - set(folders)
    if unknown:
        raise ValueError(f"no set named {', '.join(sorted(unknown))}; found {', '.join(folders)}")
    return [
        TripleSet(name, triples, "near_dark" if name in near_dark else "near_bright")
        for name, triples in folders.items()
    ]


def _is_set(folder: Path) -> bool:
    return sum(child.is_dir() for child in folder.iterdir()) >= 3


def open_model(path: Path, task: Task = "saliency") -> tuple[Runtime, tuple[int, int]]:
    """A runtime for a checkpoint or a bundle, and the (height, width) that it takes in pixels.

    Raises:
        ValueError: `path` is neither, or of another task.
    """
    if path.is_dir():
        try:
            bundle = open_bundle(path)
        except BundleError as error:
            raise ValueError(str(error)) from error
        if bundle.manifest.task != task:
            raise ValueError(f"{path} is a {bundle.manifest.task} bundle")
        return OnnxRuntime(path / "model.onnx"), bundle.manifest.input_size
    checkpoint = load_checkpoint(path)
    if checkpoint.task != task:
        raise ValueError(f"{path} is a {checkpoint.task} checkpoint")
    return PyTorchRuntime(checkpoint.build()), checkpoint.config.input_size


def evaluate_saliency(
    runtime: Runtime, sets: Sequence[TripleSet], size: tuple[int, int], out: Path
) -> dict[str, dict[str, float]]:
    """Score every set at the masks' own resolution; write `scores.json` and a sheet per set.

    The way of a picture is the service's: `prepare_rgb`, `prepare_depth`, the runtime, then
    bilinear to the mask's size.

    Args:
        runtime: answers maps of `size`.
        sets: what to judge on.
        size: (height, width) that the model takes, in pixels.
        out: folder to write to.

    Returns:
        Scores by set name, and `all` over all images where there are several sets.
    """
    out.mkdir(parents=True, exist_ok=True)
    overall = SaliencyScores()
    report: dict[str, dict[str, float]] = {}
    for one in sets:
        scores = SaliencyScores()
        rows = []
        for triple in one.triples:
            with Image.open(triple.rgb) as image:
                rgb = prepare_rgb(image, size)
            aux = prepare_depth(read_depth(triple.depth), one.convention, size)
            gt = read_gt(triple.gt)
            pred = runtime.run(rgb[None], aux[None])[0]
            full = cv2.resize(pred, gt.shape[::-1], interpolation=cv2.INTER_LINEAR)
            own = SaliencyScores()
            for judge in (scores, overall, own):
                judge.add(full, gt)
            result = own.results()
            label = f"{triple.rgb.stem}  S {result['s_measure']:.3f}  MAE {result['mae']:.3f}"
            rows.append(_row(label, rgb, aux[..., 0], gt, full))
        report[one.name] = {**scores.results(), "images": len(one.triples)}
        Image.fromarray(_sheet(rows)).save(out / f"{one.name}.png")
    if len(sets) > 1:
        report["all"] = {**overall.results(), "images": sum(len(s.triples) for s in sets)}
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _row(
    label: str,
    rgb: NDArray[np.uint8],
    aux: NDArray[np.float32],
    gt: NDArray[np.bool_],
    pred: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """RGB, depth, mask and prediction side by side under one line of text."""
    grey = [np.round(x * 255).astype(np.uint8) for x in (aux, gt.astype(np.float32), pred)]
    tiles = [cv2.resize(x, (TILE, TILE), interpolation=cv2.INTER_AREA) for x in (rgb, *grey)]
    tiles = [x if x.ndim == 3 else np.repeat(x[..., None], 3, axis=2) for x in tiles]
    caption = Image.new("RGB", (4 * TILE, 18), "white")
    ImageDraw.Draw(caption).text((4, 3), label, fill="black")
    return np.vstack((np.asarray(caption), np.hstack(tiles)))


def _sheet(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows in two columns, the last place blank where their number is odd."""
    if len(rows) == 1:
        return rows[0]
    blank = np.full_like(rows[0], 255)
    padded = [*rows, *([blank] if len(rows) % 2 else [])]
    pairs = zip(padded[::2], padded[1::2], strict=True)
    return np.vstack([np.hstack(pair) for pair in pairs])


def table(report: dict[str, dict[str, float]]) -> str:
    """The report as a Markdown table, in the field's usual column order."""
    lines = ["| set | images | S | max F | max E | MAE |", "|---|---|---|---|---|---|"]
    for name, scores in report.items():
        cells = (f"{scores[key]:.3f}" for key in ("s_measure", "max_f", "max_e", "mae"))
        lines.append(f"| {name} | {scores['images']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)
