"""A disc before a wall: the smallest RGB-D scene that has an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def disc(index: int, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Colour uint8 (H, W, 3), depth uint8 (H, W) with near bright, mask uint8 (H, W)."""
    h, w = size
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:h, 0:w]
    cy, cx = rng.uniform(0.35, 0.65) * h, rng.uniform(0.35, 0.65) * w
    inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.25 * h) ** 2
    rgb = np.where(inside[..., None], rng.integers(150, 256, 3), rng.integers(0, 100, 3))
    rgb = (rgb + rng.integers(0, 20, (h, w, 1))).clip(0, 255).astype(np.uint8)
    depth = np.where(inside, 220, 40 + 60 * y / h).astype(np.uint8)
    return rgb, depth, inside.astype(np.uint8) * 255


def write_triple(
    root: Path, stem: str, index: int, names: tuple[str, str, str] = ("rgb", "depth", "gt")
) -> None:
    """Write one triple below `root`, under the given folder names."""
    suffixes = (".jpg", ".png", ".png")
    for name, suffix, values in zip(names, suffixes, disc(index, (72, 96)), strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / name / f"{stem}{suffix}")
