"""Judge a model, or maps that any method wrote, on folders of triples."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

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
from training.data.rgbd_sets import TripleSet, known_set
from training.data.triples import Pair, Triple, picture, read_depth, read_gt, shown, size_of
from training.metrics import ImageScores, SaliencyScores, quantised

TILE = 192
"""Height and width of a picture in a figure sheet, in pixels."""
SHOWN = 40
"""Most pictures in a set's sheet, evenly spaced over the set."""
WORST = 20
"""Pictures of least S-measure, in a sheet of their own."""
MAP_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

Condition = Literal["no depth", "no colour"]
CONDITIONS: tuple[Condition, ...] = ("no depth", "no colour")
"""What is taken away: depth is missing everywhere, the photo is black."""


class Score(NamedTuple):
    """What the map of one picture scored."""

    set_name: str
    name: str
    """The picture's stem."""
    scores: ImageScores


Answer = Callable[[str, Triple], NDArray[np.uint8]]
"""A set's name and a triple -> its 8-bit map, of the mask's size."""


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


def parameters_m(path: Path) -> float | None:
    """Parameters of a checkpoint's network in millions; none of a bundle, which folds some."""
    if path.is_dir():
        return None
    return sum(value.numel() for value in load_checkpoint(path).build().parameters()) / 1e6


def predict(
    runtime: Runtime,
    pair: Pair,
    convention: DepthConvention,
    size: tuple[int, int],
    *,
    full: tuple[int, int] | None = None,
    without: Condition | None = None,
) -> NDArray[np.float32]:
    """The map of one pair, the service's way: prepared, run, then bilinear to its full size.

    Args:
        runtime: answers maps of `size`.
        pair: the pictures.
        convention: how depth is written.
        size: (height, width) that the model takes, in pixels.
        full: (height, width) of the map; none: the photo's.
        without: what is taken away first.

    Returns:
        float32 (H, W) in [0, 1].
    """
    with picture(pair.rgb) as image:
        height, width = full or image.size[::-1]
        rgb = prepare_rgb(image, size)
    aux = prepare_depth(read_depth(pair.depth), convention, size)
    if without == "no depth":
        aux = np.zeros_like(aux)
    elif without == "no colour":
        rgb = np.zeros_like(rgb)
    answer = runtime.run(rgb[None], aux[None])[0]
    return np.asarray(cv2.resize(answer, (width, height), interpolation=cv2.INTER_LINEAR))


def answers_of(runtime: Runtime, size: tuple[int, int], without: Condition | None = None) -> Answer:
    """Maps that a model answers; arguments as in `predict`."""

    def answer(_set_name: str, triple: Triple) -> NDArray[np.uint8]:
        pred = predict(
            runtime, triple, triple.convention, size, full=size_of(triple.gt), without=without
        )
        return quantised(pred)

    return answer


def answers_in(maps: Path, sets: Sequence[TripleSet]) -> Answer:
    """Maps that any method wrote: `<maps>/<set>/<stem>.png`, or `<maps>/<stem>.png` of one set.

    A set's folder may have any of the set's usual names. A map of another size than its mask is
    resized bilinearly.

    Raises:
        ValueError: a set has no folder of maps, or a picture no map; all are named.
    """
    folders = {one.name: _maps_of(maps, one, alone=len(sets) == 1) for one in sets}
    files: dict[tuple[str, str], Path] = {}
    for one in sets:
        for path in sorted(folders[one.name].iterdir()):
            if path.suffix.lower() in MAP_SUFFIXES:
                files[one.name, path.stem] = path
        missing = [t.gt.stem for t in one.triples if (one.name, t.gt.stem) not in files]
        if missing:
            raise ValueError(
                f"{folders[one.name]}: {len(missing)} of {len(one.triples)} maps are missing: "
                + shown(missing)
            )

    def answer(set_name: str, triple: Triple) -> NDArray[np.uint8]:
        with picture(files[set_name, triple.gt.stem]) as image:
            values = np.asarray(image.convert("L"))
        size = size_of(triple.gt)
        if values.shape == size:
            return values
        return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR))

    return answer


def _maps_of(maps: Path, one: TripleSet, *, alone: bool) -> Path:
    if not maps.is_dir():
        raise ValueError(f"{maps} is not a folder")
    if (maps / one.name).is_dir():
        return maps / one.name
    known = known_set(one.name)
    same = [
        child
        for child in sorted(maps.iterdir())
        if child.is_dir() and known and known_set(child.name) == known
    ]
    if len(same) == 1:
        return same[0]
    if alone and any(path.suffix.lower() in MAP_SUFFIXES for path in maps.iterdir()):
        return maps
    raise ValueError(f"{maps} has no folder, or several, for the maps of {one.name}")


def evaluate_saliency(
    answer: Answer, sets: Sequence[TripleSet], out: Path
) -> tuple[dict[str, dict[str, float]], list[Score]]:
    """Score every set at the masks' own resolution; draw sheets of its pictures and of its worst.

    Args:
        answer: where maps come from, `answers_of` or `answers_in`.
        sets: what to judge on.
        out: folder for `<set>.png` and `<set>_worst.png`.

    Returns:
        Scores by set name, and `all` over all images where there are several sets; and those of
        every image.
    """
    out.mkdir(parents=True, exist_ok=True)
    every: list[Score] = []
    report: dict[str, dict[str, float]] = {}
    for one in sets:
        scores = [*_scored(answer, one, out)]
        every += scores
        report[one.name] = summary(scores)
    if len(sets) > 1:
        report["all"] = summary(every)
    return report, every


def evaluate_without(
    runtime: Runtime, sets: Sequence[TripleSet], size: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Score every set again without depth, and without colour; rows named `<set>, no depth`."""
    report: dict[str, dict[str, float]] = {}
    for condition in CONDITIONS:
        answer = answers_of(runtime, size, condition)
        every: list[Score] = []
        for one in sets:
            scores = [
                Score(one.name, t.rgb.stem, _score(answer(one.name, t), t)) for t in one.triples
            ]
            every += scores
            report[f"{one.name}, {condition}"] = summary(scores)
        if len(sets) > 1:
            report[f"all, {condition}"] = summary(every)
    return report


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """What several images score together, and how many `images` they are."""
    return {
        **SaliencyScores(each.scores for each in scores).results(),
        "images": len(scores),
    }


def _score(pred: NDArray[np.uint8], triple: Triple) -> ImageScores:
    return SaliencyScores().add_quantised(pred, read_gt(triple.gt).astype(np.uint8) * 255)


def _scored(answer: Answer, one: TripleSet, out: Path) -> Iterator[Score]:
    """Score a set, then write its sheets."""
    step = -(-len(one.triples) // SHOWN)
    rows: list[NDArray[np.uint8]] = []
    worst: list[tuple[float, int, NDArray[np.uint8]]] = []
    for index, triple in enumerate(one.triples):
        pred = answer(one.name, triple)
        scores = _score(pred, triple)
        yield Score(one.name, triple.rgb.stem, scores)
        row = _row(triple, pred, scores)
        if index % step == 0:
            rows.append(row)
        # A heap whose first is the best of the worst.
        heapq.heappush(worst, (-scores.s_measure, index, row))
        if len(worst) > WORST:
            heapq.heappop(worst)
    name = file_name(one.name)
    Image.fromarray(_sheet(rows)).save(out / f"{name}.png")
    worst_first = [row for _, _, row in sorted(worst, key=lambda each: -each[0])]
    Image.fromarray(_sheet(worst_first)).save(out / f"{name}_worst.png")


def file_name(set_name: str) -> str:
    """A set's name as part of a file's."""
    return set_name.replace("/", "_")


def write_scores(report: Mapping[str, Mapping[str, float]], out: Path) -> None:
    """Write `scores.json`, which the exporter reads."""
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")


def _row(triple: Triple, pred: NDArray[np.uint8], scores: ImageScores) -> NDArray[np.uint8]:
    """RGB, depth, mask and prediction side by side under one line of text."""
    size = (TILE, TILE)
    with Image.open(triple.rgb) as image:
        rgb = prepare_rgb(image, size)
    aux = prepare_depth(read_depth(triple.depth), triple.convention, size)[..., 0]
    gt = read_gt(triple.gt).astype(np.uint8) * 255
    grey = [np.round(aux * 255).astype(np.uint8), gt, pred]
    tiles = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (rgb, *grey)]
    tiles = [x if x.ndim == 3 else np.repeat(x[..., None], 3, axis=2) for x in tiles]
    caption = Image.new("RGB", (4 * TILE, 18), "white")
    label = f"{triple.rgb.stem}  S {scores.s_measure:.3f}  MAE {scores.mae:.3f}"
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


def table(report: Mapping[str, Mapping[str, float]]) -> str:
    """The report as a Markdown table, in the field's usual column order."""
    lines = ["| set | images | S | max F | max E | MAE |", "|---|---|---|---|---|---|"]
    for name, scores in report.items():
        cells = (f"{scores[key]:.3f}" for key in ("s_measure", "max_f", "max_e", "mae"))
        lines.append(f"| {name} | {scores['images']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)
