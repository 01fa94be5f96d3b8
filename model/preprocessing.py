"""One pair of pictures -> the arrays that every runtime takes; training and serving share it.

Pictures arrive decoded: colour as a Pillow image, depth and near-infrared as a 2-D array at native
precision.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DepthConvention = Literal["near_bright", "near_dark", "metric"]
"""How depth is written: bright is near, dark is near, or distance with 0 for missing."""


def prepare_rgb(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a colour picture with antialiasing.

    Args:
        image: any Pillow mode that converts to RGB; orientation already applied.
        size: (height, width) in pixels.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = size
    resized = as_rgb(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture in mode RGB, the same one if it is already; Pillow would copy it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def prepare_nir(nir: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Divide a near-infrared picture by its full range, 255 or 65535, and resize as `prepare_rgb`.

    How bright it is stays visible: nothing is scaled by what the picture holds.

    Args:
        nir: uint8 or uint16 (H, W), of either byte order; orientation already applied.
        size: (height, width) in pixels.

    Returns:
        float32 (H, W, 1) in [0, 1].

    Raises:
        ValueError: other axes or another dtype.
    """
    if nir.ndim != 2:
        raise ValueError(f"near-infrared must have shape (H, W), got {nir.shape}")
    if nir.dtype.kind != "u" or nir.dtype.itemsize > 2:
        raise ValueError(f"near-infrared must be uint8 or uint16, got {nir.dtype}")
    values = nir.astype(np.float32) / np.float32(np.iinfo(nir.dtype).max)
    return np.clip(_resize(values, size), 0.0, 1.0)[..., None]


def prepare_depth(
    depth: NDArray[Any], convention: DepthConvention, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Normalise depth at native precision and size, then resize; see `normalise_depth`.

    Returns:
        float32 (H, W, 1) in [0, 1], near = 1, missing = 0.
    """
    near, valid = normalise_depth(depth, convention)
    return resize_valid(near, valid, size)[..., None]


def normalise_depth(
    depth: NDArray[Any], convention: DepthConvention
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scale one depth map to [0, 1] by min-max over its valid pixels, near = 1, missing = 0.

    Non-finite values are missing; in `metric`, so are values <= 0. A constant map says nothing
    about near or far and becomes 0.5 where it is valid.

    Args:
        depth: (H, W), any real dtype.
        convention: how `depth` is written.

    Returns:
        near: float32 (H, W).
        valid: bool (H, W).

    Raises:
        ValueError: `depth` is not two-dimensional, or the convention is unknown.
    """
    if depth.ndim != 2:
        raise ValueError(f"depth must have shape (H, W), got {depth.shape}")
    if convention not in ("near_bright", "near_dark", "metric"):
        raise ValueError(f"unknown depth convention {convention!r}")
    # 16-bit integers are exact in float32, at half the memory.
    with np.errstate(invalid="ignore"):  # a signalling NaN is missing like any other
        values: NDArray[Any] = depth.astype(np.float32 if depth.dtype.itemsize <= 2 else np.float64)
    valid = np.isfinite(values)
    if convention == "metric":
        valid &= values > 0
    if valid.size and valid.all():
        return _scale(values, convention).astype(np.float32, copy=False), valid
    near = np.zeros(values.shape, np.float32)
    if valid.any():
        near[valid] = _scale(values[valid], convention)
    return near, valid


def _scale(values: NDArray[Any], convention: DepthConvention) -> NDArray[Any]:
    """Floats by min-max to [0, 1], near = 1; their array may be reused."""
    low, high = values.min(), values.max()
    if high == low:
        return np.full_like(values, 0.5)
    values -= low
    values /= high - low
    return values if convention == "near_bright" else np.subtract(1.0, values, out=values)


def resize_valid(
    values: NDArray[np.float32], valid: NDArray[np.bool_], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Resize a map with antialiasing, averaging valid pixels only.

    A cell of which less than half is valid is missing, and 0.

    Args:
        values: float32 (H, W), 0 where missing.
        valid: bool (H, W).
        size: (height, width) of the result in pixels.
    """
    resized = _resize(values, size)
    if valid.all():
        return np.clip(resized, 0.0, 1.0)
    share = _resize(valid.astype(np.float32), size)
    kept = share >= 0.5
    return np.clip(np.where(kept, resized / np.where(kept, share, 1.0), 0.0), 0.0, 1.0).astype(
        np.float32
    )


def _resize(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    return np.asarray(
        Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR), np.float32
    )
