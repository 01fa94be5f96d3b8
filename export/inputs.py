"""Deterministic pairs that a conversion is judged on: scenes, and inputs at the edges of the range.

Every value comes from a formula, so that the same numbers arise on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]
_Grid = NDArray[np.float64]

GOLDEN_RATIO = 0.6180339887498949


def scenes(count: int, size: tuple[int, int], seed: int = 0) -> tuple[Rgb, Aux]:
    """Smooth scenes: a shaded ground that recedes, and objects that stand nearer.

    Args:
        count: number of pairs.
        size: (height, width) in pixels.
        seed: shifts every place, size and colour.

    Returns:
        rgb: uint8 (count, H, W, 3).
        aux: float32 (count, H, W, 1) in steps of 1/256, near = 1.
    """
    pairs = [_scene(size, GOLDEN_RATIO * (8 * seed + row)) for row in range(count)]
    return np.stack([rgb for rgb, _ in pairs]), np.stack([aux for _, aux in pairs])


def parity_pairs(size: tuple[int, int], seed: int = 0) -> tuple[Rgb, Aux]:
    """Eight pairs: scenes, a dark one, depth with holes, no depth, a checkerboard, noise, white."""
    rgb, aux = scenes(8, size, seed)
    y, x = np.indices(size)
    # Darker still, float32 itself is the limit: at an eighth, torch and ONNX Runtime are each up to
    # 1e-5 from float64 (measured on a trained network), at a quarter 6e-6.
    rgb[2] //= 4
    aux[3][(x // 16 + y // 16) % 3 == 0] = 0  # holes
    aux[4] = 0
    rgb[5] = np.where((x // 8 + y // 8) % 2, 255, 0)[..., None]
    rgb[6] = _hash(np.arange(rgb[6].size) + seed).reshape(*size, 3) >> 24
    aux[6] = (_hash(np.arange(aux[6].size) + seed + 1) / 2**32).reshape(*size, 1)
    rgb[7], aux[7] = 255, 1
    return rgb, aux


def _scene(size: tuple[int, int], phase: float) -> tuple[Rgb, Aux]:
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    near = 0.1 + 0.5 * y  # the ground recedes upwards
    waves = _shading(x, y, phase)
    colour = np.stack([0.45 + 0.2 * waves(channel) for channel in range(3)], axis=-1)
    for index in range(2):
        place = phase + index * GOLDEN_RATIO
        centre_x, centre_y = 0.25 + 0.5 * (place * 7 % 1), 0.35 + 0.4 * (place * 3 % 1)
        radius = 0.1 + 0.15 * (place * 5 % 1)
        inside = (x - centre_x) ** 2 + ((y - centre_y) * 1.3) ** 2 < radius**2
        tint = np.array([(place * factor) % 1 for factor in (1, 2, 3)])
        light = 0.8 + 0.6 * (centre_y - y[inside])
        colour[inside] = tint * light[:, None]
        near[inside] = 0.75 + 0.1 * index + 0.2 * (x[inside] - centre_x)
    rgb = np.clip(colour * 255, 0, 255).astype(np.uint8)
    aux = (np.clip(near, 0, 1) * 256).round() / 256
    return rgb, aux[..., None].astype(np.float32)


def _shading(x: _Grid, y: _Grid, phase: float) -> Callable[[int], _Grid]:
    def shade(channel: int) -> _Grid:
        turn = 2 * np.pi * (phase + channel / 3)
        total = np.zeros_like(x)
        for octave in range(4):
            frequency = 2.0**octave
            total += np.cos(frequency * (5 * x + 3 * y) + turn * (octave + 1)) / frequency
        return total

    return shade


def _hash(index: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Well-mixed bits of each index (the finaliser of MurmurHash3)."""
    bits = index.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return np.asarray(bits ^ (bits >> np.uint32(16)))
