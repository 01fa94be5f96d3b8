"""Augmentation of re-identification crops: geometry for both pictures, damage for one at a time.

A simulated near-infrared picture says nothing that a clean photo does not say. So one modality is
often damaged while its partner stays clean, independently in each view of an identity, and the
network must take from each what the other lost.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.uint8]
Grey = NDArray[np.float32]

SHIFT = 0.05
"""Largest shift along each axis, as a share of the side."""


def geometry(
    rgb: Colour, aux: Grey, rng: np.random.Generator, *, synchronous: bool = True
) -> tuple[Colour, Grey]:
    """Flip, zoom, turn and shift, then erase a rectangle.

    Args:
        rgb: uint8 (H, W, 3).
        aux: float32 (H, W) in [0, 1].
        rng: where all chance comes from.
        synchronous: both alike; otherwise each its own, as the published loaders do.
    """
    seed = int(rng.integers(2**63))
    moved_rgb = _move(rgb, np.random.default_rng(seed))
    moved_aux = _move(aux, np.random.default_rng(seed if synchronous else seed + 1))
    return moved_rgb, moved_aux


def _move(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Draws the same numbers whatever the dtype; what leaves the picture comes in as 0."""
    h, w = values.shape[:2]
    flip = -1.0 if rng.random() < 0.5 else 1.0
    zoom = np.exp(rng.uniform(-0.12, 0.12, 2))
    angle = np.deg2rad(rng.uniform(-6, 6))
    shift = rng.uniform(-SHIFT, SHIFT, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array(
        [[flip * zoom[0] * cos, -flip * zoom[0] * sin], [zoom[1] * sin, zoom[1] * cos]]
    )
    centre = np.array([(w - 1) / 2, (h - 1) / 2])
    offset = centre + shift * (w, h) - linear @ centre
    moved: NDArray[Any] = cv2.warpAffine(values, np.hstack((linear, offset[:, None])), (w, h))
    if rng.random() < 0.35:
        area = rng.uniform(0.02, 0.2) * h * w
        aspect = np.exp(rng.uniform(-1, 1))
        eh, ew = min(int((area * aspect) ** 0.5), h - 1), min(int((area / aspect) ** 0.5), w - 1)
        top, left = int(rng.integers(h - eh)), int(rng.integers(w - ew))
        noise = rng.random((eh, ew, 3), np.float32)
        hole = moved[top : top + eh, left : left + ew]
        hole[...] = (noise * 255).astype(np.uint8) if moved.ndim == 3 else noise[..., 0]
    return moved


def vary(rgb: Colour, aux: Grey, rng: np.random.Generator) -> tuple[Colour, Grey]:
    """Change exposure, contrast, colour and sharpness, no more than cameras differ."""
    values = rgb.astype(np.float32)
    if rng.random() < 0.8:
        values *= rng.uniform(0.7, 1.35) * rng.uniform(0.94, 1.06, 3).astype(np.float32)
        mean = float(values.mean())
        values = (values - mean) * rng.uniform(0.75, 1.3) + mean
        grey = values.mean(axis=-1, keepdims=True)
        values = grey + (values - grey) * rng.uniform(0.6, 1.4)
    if rng.random() < 0.9:
        aux = np.clip(aux, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.25)))
        mean = float(aux.mean())
        aux = (aux - mean) * rng.uniform(0.7, 1.4) + mean * rng.uniform(0.75, 1.3)
    if rng.random() < 0.5:  # one lens for both
        sigma = rng.uniform(0.3, 2.0) * max(rgb.shape[:2]) / 256
        values, aux = (cv2.GaussianBlur(x, (0, 0), sigma) for x in (values, aux))
    if rng.random() < 0.3:
        values += rng.standard_normal(rgb.shape, np.float32) * rng.uniform(0, 10)
        aux = aux + rng.standard_normal(aux.shape, np.float32) * rng.uniform(0, 0.04)
    changed = np.clip(values, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        changed = np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", changed, quality)[1], cv2.IMREAD_COLOR)
        )
    return changed, np.clip(aux, 0, 1).astype(np.float32)


def damage_one(rgb: Colour, aux: Grey, rng: np.random.Generator) -> tuple[Colour, Grey]:
    """Four times in ten, take most of one modality away and leave the other clean."""
    kind = rng.random()
    if kind < 0.24:
        return damage_rgb(rgb, rng), aux
    if kind < 0.4:
        return rgb, damage_aux(aux, rng)
    return rgb, aux


def damage_rgb(rgb: Colour, rng: np.random.Generator) -> Colour:
    """Night, headlights that flare, glare, heavy noise, or no picture; (H, W, 3) -> (H, W, 3)."""
    kind = rng.random()
    if kind < 0.2:  # one level; black is what a missing picture looks like
        return np.full_like(rgb, 0 if rng.random() < 0.6 else int(rng.integers(256)))
    values = rgb.astype(np.float32)
    if kind < 0.7:
        values = night(values, rng.uniform(0.03, 0.35), rng)
        if rng.random() < 0.5:
            values += _flare(rgb.shape[:2], rng) * rng.uniform(120, 400)
    elif kind < 0.85:  # glare
        values *= rng.uniform(0.8, 1.6)
        values += _flare(rgb.shape[:2], rng, spread=0.6) * rng.uniform(80, 300)
        values += rng.uniform(0, 80)
    else:
        values += rng.standard_normal(rgb.shape, np.float32) * rng.uniform(25, 80)
    return np.clip(values, 0, 255).astype(np.uint8)


def night(values: Grey, level: float, rng: np.random.Generator) -> Grey:
    """A photo of little light: dim, pale, of a warm or cold cast, and noisy.

    Args:
        values: float32 (H, W, 3) in [0, 255].
        level: share of the light that is left.
        rng: where all chance comes from.
    """
    grey = values.mean(axis=-1, keepdims=True)
    pale = grey + (values - grey) * np.float32(rng.uniform(0.2, 0.8))
    cast = rng.uniform(0.7, 1.3, 3).astype(np.float32)
    dark = pale * cast * np.float32(level)
    noise = rng.standard_normal(values.shape, np.float32)
    result: Grey = dark + noise * (2 + np.sqrt(np.maximum(dark, 0)) * np.float32(0.6))
    return result


def damage_aux(aux: Grey, rng: np.random.Generator) -> Grey:
    """No near-infrared, hardly any light, heavy noise, or overexposure; (H, W) -> (H, W)."""
    kind = rng.random()
    if kind < 0.45:
        return np.full_like(aux, 0 if rng.random() < 0.7 else rng.random())
    noise = rng.standard_normal(aux.shape, np.float32)
    if kind < 0.7:
        values = aux * rng.uniform(0.03, 0.3) + noise * rng.uniform(0.005, 0.03)
    elif kind < 0.85:
        values = aux + noise * rng.uniform(0.1, 0.3)
    else:
        values = aux * rng.uniform(1.5, 3) + _flare(aux.shape, rng, spread=0.5)[..., 0]
    return np.clip(values, 0, 1).astype(np.float32)


def _flare(shape: tuple[int, ...], rng: np.random.Generator, spread: float = 0.15) -> Grey:
    """One to three lights with halos, (H, W, 1) in [0, 1]."""
    h, w = shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    light = np.zeros((h, w), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.3, 1.0) * spread * max(h, w)
        distance = np.hypot(y - rng.uniform(0, h), x - rng.uniform(0, w))
        light = np.maximum(light, np.exp(-distance / np.float32(radius)))
    return light[..., None]
