"""Masks for photos without one: a trained network labels what it is sure of, to train the next.

Photos of other things than the labelled ones widen what counts as an object. The teacher sees no
depth (it would be made up), but several sizes, mirrored too; where those views disagree, or
little or nearly everything is object, the photo is left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from model.preprocessing import prepare_rgb

SIZES = (224, 256, 320)
"""Sides of the square views, in pixels."""


def pseudo_label(
    network: nn.Module, photos: Iterable[Path], out: Path, *, agreement: float = 0.85
) -> Iterator[tuple[Path, bool]]:
    """Label photos and write those that are sure to `out/{rgb,gt}`.

    Args:
        network: a saliency network; `forward` as `SaliencyNet`, sides any multiple of 32.
        photos: pictures to label.
        out: becomes one more set of `training.data.foregrounds`.
        agreement: least soft intersection over union between any view and their mean.

    Yields:
        Each photo, and whether it was kept.
    """
    for folder in ("rgb", "gt"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path in photos:
        mask = _label(network, path, agreement)
        if mask is not None:
            shutil.copyfile(path, out / "rgb" / path.name)
            Image.fromarray(mask).save(out / "gt" / f"{path.stem}.png")
        yield path, mask is not None


@torch.inference_mode()
def _label(network: nn.Module, path: Path, agreement: float) -> NDArray[np.uint8] | None:
    """The mask of one photo, uint8 (H, W) of 0 and 255, or nothing if unsure."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    views = []
    for side in SIZES:
        rgb = torch.from_numpy(prepare_rgb(picture, (side, side)).copy())
        both = torch.stack((rgb, rgb.flip(1)))
        straight, mirrored = network(both, torch.zeros(2, side, side, 1)).numpy()
        for view in (straight, mirrored[:, ::-1]):
            resized = cv2.resize(
                np.ascontiguousarray(view), picture.size, interpolation=cv2.INTER_LINEAR
            )
            views.append(resized)
    mean = np.mean(views, axis=0)
    overlap = min(np.minimum(v, mean).sum() / max(np.maximum(v, mean).sum(), 1) for v in views)
    share = float((mean > 0.5).mean())
    if overlap < agreement or not 0.03 <= share <= 0.75:
        return None
    mask: NDArray[np.uint8] = (mean > 0.5).astype(np.uint8) * 255
    return mask
