"""Judge a re-identification model: search scores, also with a modality gone, and a figure sheet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.runtimes.base import Runtime
from training.data.reid_augment import night
from training.data.reid_samples import prepare_pair, with_labels
from training.data.reid_sets import Crop, Trial, counts, refuse_swapped
from training.metrics import Embedded, Found, reid_scores, search

Condition = Literal["clean", "dark RGB", "no NIR", "no RGB"]
CONDITIONS: tuple[Condition, ...] = ("clean", "dark RGB", "no NIR", "no RGB")
"""What is done to every crop before it is embedded.

`dark RGB`: an eighth of the light, pale and noisy, see `reid_augment.night`; near-infrared, which
brings its own light, stays. `no NIR`, `no RGB`: that picture is black.
"""
LIGHT = 0.125
TILE = 96
"""Height and width of a picture in the figure sheet, in pixels."""
ROWS = 40
"""Queries in the figure sheet: wrong answers first."""
TOP = 10
RIGHT, WRONG = (0, 150, 0), (220, 0, 0)
"""Colours of a match's frame."""
LEGEND = 36
"""Height of the legend above the rows, in pixels."""


def evaluate_reid(
    runtime: Runtime,
    trial: Trial,
    name: str,
    size: tuple[int, int],
    out: Path,
    *,
    conditions: bool = False,
    rerank: bool = False,
) -> dict[str, dict[str, float]]:
    """Search for every query; write `scores.json` and `<name>.png`.

    The way of a pair is the service's: `prepare_rgb`, `prepare_nir`, the runtime.

    Args:
        runtime: answers embeddings of pairs of `size`.
        trial: query, gallery and rule.
        name: of the data set, in the report.
        size: (height, width) that the model takes, in pixels.
        out: folder to write to.
        conditions: repeat under each of `CONDITIONS`, for query and gallery alike and for the
            query alone.
        rerank: repeat the clean search after k-reciprocal re-ranking.

    Returns:
        Scores by row; a row's name says if near-infrared is simulated.

    Raises:
        ValueError: a crop cannot be read, or the modalities look swapped.
    """
    refuse_swapped(trial.query)
    out.mkdir(parents=True, exist_ok=True)
    note = ", simulated NIR" if trial.simulated else ""
    query, gallery = _embed_trial(runtime, trial, size, "clean")
    answers: list[Found] = []
    report = {f"{name}{note}": reid_scores(_kept(search(query, gallery, trial.rule), answers))}
    Image.fromarray(_sheet(trial, answers)).save(out / f"{name}.png")
    if rerank:
        report[f"{name}, re-ranked{note}"] = reid_scores(
            search(query, gallery, trial.rule, rerank=True)
        )
    for condition in CONDITIONS[1:] if conditions else ():
        worse_query, worse_gallery = _embed_trial(runtime, trial, size, condition)
        for where, other in (("", worse_gallery), (" in the query", gallery)):
            report[f"{name}, {condition}{where}{note}"] = reid_scores(
                search(worse_query, other, trial.rule)
            )
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def describe(trial: Trial) -> str:
    """How many identities, images and cameras are searched for and in, one line each."""
    return "\n".join(
        f"{name}: {', '.join(f'{count} {what}' for what, count in counts(crops).items())}"
        for name, crops in (("query", trial.query), ("gallery", trial.gallery))
    )


def reid_table(report: dict[str, dict[str, float]]) -> str:
    """The report as a Markdown table, in the field's usual column order."""
    lines = [
        "| set | queries | skipped | mAP | rank 1 | rank 5 | rank 10 | mINP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, scores in report.items():
        whole = (f"{scores[key]:.0f}" for key in ("queries", "skipped"))
        shares = (f"{scores[key]:.3f}" for key in ("mean_ap", "rank1", "rank5", "rank10", "minp"))
        lines.append(f"| {name} | {' | '.join((*whole, *shares))} |")
    return "\n".join(lines)


def _embed_trial(
    runtime: Runtime, trial: Trial, size: tuple[int, int], condition: Condition
) -> tuple[Embedded, Embedded]:
    query = _embed(runtime, trial.query, size, condition)
    same = trial.gallery is trial.query
    gallery = query if same else _embed(runtime, trial.gallery, size, condition)
    embedded = with_labels((query, trial.query), (gallery, trial.gallery))
    return embedded[0], embedded[1]


def _embed(
    runtime: Runtime, crops: Sequence[Crop], size: tuple[int, int], condition: Condition
) -> NDArray[np.float32]:
    """(N, D), unit length."""
    values = []
    for first in range(0, len(crops), 16):
        pairs = [_under(crop, size, condition) for crop in crops[first : first + 16]]
        rgb, aux = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        values.append(runtime.run(rgb, aux))
    return np.concatenate(values)


def _under(
    crop: Crop, size: tuple[int, int], condition: Condition
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rgb, aux = prepare_pair(crop, size)
    if condition == "dark RGB":
        seed = int.from_bytes(hashlib.sha256(crop.rgb.path.name.encode()).digest()[:4])
        dark = night(rgb.astype(np.float32), LIGHT, np.random.default_rng(seed))
        rgb = np.clip(dark, 0, 255).astype(np.uint8)
    elif condition == "no RGB":
        rgb = np.zeros_like(rgb)
    elif condition == "no NIR":
        aux = np.zeros_like(aux)
    return rgb, aux


def _kept(answers: Iterator[Found], tops: list[Found]) -> Iterator[Found]:
    """Pass answers on, and keep the first ten of each."""
    for answer in answers:
        tops.append(Found(answer.order[:TOP], answer.right[:TOP]))
        yield answer


def _sheet(trial: Trial, answers: Sequence[Found]) -> NDArray[np.uint8]:
    """A legend, then a row for each query: itself and its first ten, green right, red wrong."""
    wrong_first = sorted(range(len(answers)), key=lambda i: bool(answers[i].right[:1].any()))
    rows = []
    for index in wrong_first[:ROWS]:
        answer = answers[index]
        tiles = [_tile(trial.query[index], (255, 255, 255))]
        for other, right in zip(answer.order, answer.right, strict=True):
            tiles.append(_tile(trial.gallery[other], RIGHT if right else WRONG))
        tiles += [np.full_like(tiles[0], 255)] * (1 + TOP - len(tiles))
        rows.append(np.hstack(tiles))
    return np.vstack((_legend(rows[0].shape[1]), *rows))


def _legend(width: int) -> NDArray[np.uint8]:
    """What the columns, the two pictures of a cell and the frames mean, as lines of text."""
    legend = Image.new("RGB", (width, LEGEND), "white")
    draw = ImageDraw.Draw(legend)
    for column in range(1 + TOP):
        text = f"match {column}" if column else "query"
        draw.text((width // (1 + TOP) * column + 4, LEGEND - 16), text, fill="black")
    x = 4.0
    for text, frame in (
        ("each cell: colour over near-infrared; the most similar first;", None),
        ("same identity,", RIGHT),
        ("another;", WRONG),
        (f"queries whose first match is wrong come first, at most {ROWS}", None),
    ):
        if frame:
            draw.rectangle((x, 5, x + 10, 15), outline=frame, width=3)
            x += 16
        draw.text((x, 3), text, fill="black")
        x += draw.textlength(f"{text}  ")
    return np.asarray(legend)


def _tile(crop: Crop, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    rgb, aux = prepare_pair(crop, (TILE, TILE))
    grey = np.repeat(np.round(aux * 255).astype(np.uint8), 3, axis=2)
    tile: NDArray[Any] = cv2.copyMakeBorder(
        np.vstack((rgb, grey)), 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=colour
    )
    return tile
