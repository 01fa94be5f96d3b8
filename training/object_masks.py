"""Masks for photos of which only the class is known: proposed by networks, chosen by eye.

A classifier's class activation says where the named thing is, a saliency network what stands out,
and GrabCut finds an outline for both together. The proposals of every photo were then judged by
eye; the judgements are a small file here, so the set can be made again wherever the photos are.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from model.config import SaliencyConfig
from model.runtimes.base import Runtime

Choice = Literal["outline", "teacher", "box", "none"]
"""The cut of both together, the teacher's own map, a new cut inside a box, or no clear object."""

CAM_SIDES = (224, 320, 448)
"""Shorter sides at which the classifier looks, in pixels."""
CUT_SIDE = 256
"""Longer side at which GrabCut works, in pixels."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Judgement:
    """What the eye chose among one photo's proposals."""

    choice: Choice
    box: tuple[float, float, float, float] = (0, 0, 1, 1)
    """Left, top, right, bottom of the object as shares of width and height; for `box` alone."""


def read_judgements(path: Path) -> dict[str, Judgement]:
    """Read a CSV file with columns `photo, choice, left, top, right, bottom`, by the photo's stem.

    Raises:
        ValueError: a line does not fit; the message has its number.
    """
    judgements: dict[str, Judgement] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                box = tuple(float(row[side] or 0) for side in ("left", "top", "right", "bottom"))
                judgements[row["photo"]] = _judgement(row["choice"], box)
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}: {row}: {error}") from error
    return judgements


def _judgement(choice: str, box: tuple[float, ...]) -> Judgement:
    plain: dict[str, Choice] = {each: each for each in ("outline", "teacher", "none")}
    if choice in plain:
        return Judgement(plain[choice])
    left, top, right, bottom = box
    if choice != "box" or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"expected outline, teacher, none or a box, got {choice!r} {box}")
    return Judgement("box", (left, top, right, bottom))


class Classifier:
    """A timm classifier of the 1000 ImageNet classes, for its class activations.

    Args:
        weights: `.safetensors` in timm's names, for the preset's trunk with its classifier.
        preset: whose trunk and normalisation.

    Raises:
        ValueError: the weights do not fit.
    """

    def __init__(self, weights: Path, preset: SaliencyConfig) -> None:
        self._network: Any = timm.create_model(
            preset.backbone, pretrained=False, **preset.backbone_args
        ).eval()
        try:
            self._network.load_state_dict(load_file(weights), strict=True)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not fit {preset.backbone}: {error}") from error
        self._mean = torch.tensor(preset.mean).view(3, 1, 1)
        self._std = torch.tensor(preset.std).view(3, 1, 1)

    @torch.inference_mode()
    def activation(self, rgb: NDArray[np.uint8], index: int) -> Map:
        """Where class `index` is seen: (H, W, 3) -> (H, W) in [0, 1]; Zhou et al., CVPR 2016."""
        height, width = rgb.shape[:2]
        head: nn.Linear = self._network.classifier
        total = np.zeros((height, width), np.float32)
        for side in CAM_SIDES:
            scale = side / min(height, width)
            size = tuple(max(32, round(length * scale / 32) * 32) for length in (width, height))
            picture = torch.from_numpy(cv2.resize(rgb, size)).permute(2, 0, 1).float() / 255
            straight = (picture - self._mean) / self._std
            features = self._network.forward_features(torch.stack((straight, straight.flip(-1))))
            seen = torch.einsum("c,bchw->bhw", head.weight[index], features).clamp(min=0)
            for one in (seen[0], seen[1].flip(-1)):
                values = (one / one.max().clamp(min=1e-6)).numpy()
                total += cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
        total = total.clip(0)
        result: Map = total / max(float(total.max()), 1e-6)
        return result


def class_indices(photos: Sequence[Path]) -> list[int]:
    """Index of each photo's class: stems begin with its WordNet id, and all 1000 must occur.

    Raises:
        ValueError: there are not 1000 classes.
    """
    ids = [photo.stem.partition("_")[0] for photo in photos]
    order = sorted(set(ids))
    if len(order) != 1000:
        raise ValueError(f"expected photos of 1000 ImageNet classes, found {len(order)}")
    return [order.index(each) for each in ids]


def write_objects(
    photos: Sequence[Path],
    judgements: Mapping[str, Judgement],
    classifier: Classifier,
    teacher: tuple[Runtime, tuple[int, int]],
    out: Path,
) -> Iterator[Choice]:
    """Write masks of the photos whose object is clear, and copy the others as scenes.

    Args:
        photos: pictures of all ImageNet classes.
        judgements: by stem; a photo without one is left out.
        classifier: says where the class is.
        teacher: a saliency runtime, and its input's (height, width).
        out: gets `objects/{rgb,gt}`, a set of `training.data.foregrounds`, and `scenes`.

    Yields:
        What became of each judged photo.
    """
    folders = {name: out / name for name in ("objects/rgb", "objects/gt", "scenes")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for photo, index in zip(photos, class_indices(photos), strict=True):
        judgement = judgements.get(photo.stem)
        if judgement is None:
            continue
        if judgement.choice == "none":
            shutil.copyfile(photo, folders["scenes"] / photo.name)
        else:
            with Image.open(photo) as image:
                rgb = np.asarray(image.convert("RGB"))
            seen = classifier.activation(rgb, index)
            mask = propose(rgb, seen, _saliency(rgb, *teacher), judgement)
            shutil.copyfile(photo, folders["objects/rgb"] / photo.name)
            Image.fromarray(mask).save(folders["objects/gt"] / f"{photo.stem}.png")
        yield judgement.choice


def propose(
    rgb: NDArray[np.uint8], seen: Map, salient: Map, judgement: Judgement
) -> NDArray[np.uint8]:
    """The mask that was chosen.

    Args:
        rgb: uint8 (H, W, 3).
        seen: class activation, (H, W) in [0, 1].
        salient: the teacher's map, (H, W) in [0, 1].
        judgement: which proposal; not `none`.

    Returns:
        uint8 (H, W) of 0 and 255.
    """
    if judgement.choice == "teacher":
        return np.where(salient > 0.5, 255, 0).astype(np.uint8)
    score = (seen + salient) / 2
    height, width = score.shape
    marks = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    if judgement.choice == "box":
        left, top, right, bottom = judgement.box
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        inside = np.zeros((height, width), np.uint8)
        inside[rows, columns] = 1
        centre = (round((left + right) / 2 * width), round((top + bottom) / 2 * height))
        axes = (round((right - left) * 0.36 * width), round((bottom - top) * 0.36 * height))
        heart = cv2.ellipse(np.zeros_like(inside), centre, axes, 0, 0, 360, 1, -1)
        marks[(inside == 1) & ((heart == 1) | (score > 0.4))] = cv2.GC_PR_FGD
        marks[inside == 0] = cv2.GC_BGD
    else:
        marks[score > 0.33] = cv2.GC_PR_FGD
        marks[score > 0.75] = cv2.GC_FGD
        marks[score < 0.06] = cv2.GC_BGD
    return _cut(rgb, marks)


def _cut(rgb: NDArray[np.uint8], marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """GrabCut (Rother et al., 2004) from `marks`, on a smaller picture; the largest parts of it."""
    height, width = marks.shape
    scale = CUT_SIDE / max(height, width)
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    small_marks = cv2.resize(marks, size, interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, small_marks, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(small_marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = [part for part in range(1, len(areas)) if areas[part] >= 0.1 * areas[1:].max()]
    smooth = cv2.resize(
        np.isin(labels, kept).astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.where(smooth > 127, 255, 0).astype(np.uint8)


def _saliency(rgb: NDArray[np.uint8], runtime: Runtime, size: tuple[int, int]) -> Map:
    """The teacher's map of a photo without depth, the mean over the photo and its mirror image."""
    height, width = size
    picture = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    both = np.stack((picture, picture[:, ::-1]))
    straight, mirrored = runtime.run(both, np.zeros((2, height, width, 1), np.float32))
    mean = (straight + mirrored[:, ::-1]) / 2
    result: Map = cv2.resize(mean, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return result
