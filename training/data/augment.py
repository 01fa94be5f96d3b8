"""Augmentation of saliency samples: geometry shared by all maps, colour for RGB alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def joint_crop(
    maps: Sequence[NDArray[Any]],
    gt: NDArray[np.uint8],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> list[NDArray[Any]]:
    """Flip, rotate a little, crop and resize all `maps` alike, keeping most of the object.

    Args:
        maps: arrays (H, W) or (H, W, C) of one height and width.
        gt: uint8 (H, W), the object above 127.
        size: (height, width) of the result.
        rng: where all chance comes from.
    """
    h, w = gt.shape
    area = max(int((gt > 127).sum()), 1)
    box = (0, 0, w, h)
    for _ in range(8):
        share = rng.uniform(0.45, 1.0) if rng.random() < 0.75 else 1.0
        aspect = np.exp(rng.uniform(-0.3, 0.3))
        bw, bh = min(w, int(w * share**0.5 * aspect)), min(h, int(h * share**0.5 / aspect))
        x, y = int(rng.integers(w - bw + 1)), int(rng.integers(h - bh + 1))
        if (gt[y : y + bh, x : x + bw] > 127).sum() >= 0.8 * area:
            box = (x, y, bw, bh)
            break
    x, y, bw, bh = box
    height, width = size
    # One affine map from the result's pixels to the source's: crop, flip, rotate.
    angle = np.deg2rad(rng.uniform(-12, 12)) if rng.random() < 0.25 else 0.0
    flip = -1.0 if rng.random() < 0.5 else 1.0
    sx, sy = bw / width, bh / height
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[flip * sx * cos, -flip * sx * sin], [sy * sin, sy * cos]])
    centre_to = np.array([(width - 1) / 2, (height - 1) / 2])
    centre_from = np.array([x + (bw - 1) / 2, y + (bh - 1) / 2])
    matrix = np.hstack((linear, (centre_from - linear @ centre_to)[:, None]))
    shrink = max(sx, sy)
    results = []
    for values in maps:
        if shrink > 1.4:  # warpAffine does not antialias
            values = cv2.GaussianBlur(values, (0, 0), 0.35 * shrink)
        results.append(
            cv2.warpAffine(
                values,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )
    return results


def photometric(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, colour and sharpness; (H, W, 3) -> (H, W, 3).

    One time in thirty the colour picture is gone, so that depth alone must do.
    """
    if rng.random() < 0.03:
        return np.full_like(rgb, int(rng.integers(256)))
    values = rgb.astype(np.float32)
    if rng.random() < 0.8:
        values = values * rng.uniform(0.6, 1.4)
        mean = float(values.mean())
        values = (values - mean) * rng.uniform(0.6, 1.4) + mean
        values *= rng.uniform(0.88, 1.12, 3).astype(np.float32)
    if rng.random() < 0.5:
        grey = values.mean(axis=-1, keepdims=True)
        values = grey + (values - grey) * rng.uniform(0.0, 1.6)
    if rng.random() < 0.2:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.8))
    if rng.random() < 0.3:
        values = values + rng.standard_normal(rgb.shape, np.float32) * rng.uniform(0, 12)
    changed = np.clip(values, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))]
        file = cv2.imencode(".jpg", changed, quality)[1]
        changed = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))
    return changed
