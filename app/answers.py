"""One saliency map -> the answer that was asked for; blocks, so it belongs in a worker thread."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.images import encode_npy, encode_png
from app.schemas import Box, Output, PictureSize, RunLengths, SaliencyReport
from model.preprocessing import DepthConvention

_OVERLAY_TINT = (255, 48, 32)
_OVERLAY_STRENGTH = 0.6
_CUTOUT_RAMP = 0.1  # saliency on either side of the threshold over which the edge softens

MEDIA_TYPES: dict[Output, str] = {
    "map": "image/png",
    "map16": "image/png",
    "mask": "image/png",
    "cutout": "image/png",
    "overlay": "image/png",
    "npy": "application/x-npy",
    "json": "application/json",
}


def encode(
    output: Output, saliency: NDArray[np.float32], rgb: Image.Image | None, threshold: float
) -> bytes:
    """Encode every output but `json`.

    Args:
        output: what was asked for.
        saliency: (H, W) in [0, 1].
        rgb: the upright picture, of any size, mode RGB; needed for `cutout` and `overlay`.
        threshold: see `SaliencyOptions`.
    """
    if output == "map":
        return encode_png(Image.fromarray(_to_bytes(saliency)))
    if output == "map16":
        return encode_png(Image.fromarray(np.rint(saliency * 65535).astype(np.uint16)))
    if output == "mask":
        return encode_png(Image.fromarray(_to_bytes(saliency >= threshold)))
    if output == "npy":
        return encode_npy(saliency)
    if rgb is None:
        raise ValueError(f"{output} is not a file that needs no picture")
    # Pillow mixes in 8 bits: floats of a large picture would take a dozen bytes a pixel.
    size = (saliency.shape[1], saliency.shape[0])
    picture = rgb.copy() if rgb.size == size else rgb.resize(size, Image.Resampling.BILINEAR)
    if output == "cutout":
        alpha = np.clip((saliency - threshold) / (2 * _CUTOUT_RAMP) + 0.5, 0.0, 1.0)
        picture.putalpha(Image.fromarray(_to_bytes(alpha)))
        return encode_png(picture)
    if output == "overlay":
        picture.paste(_OVERLAY_TINT, mask=Image.fromarray(_to_bytes(_OVERLAY_STRENGTH * saliency)))
        return encode_png(picture)
    raise ValueError(f"{output} is not a file")


def describe(
    saliency: NDArray[np.float32],
    *,
    model_id: str,
    depth_convention: DepthConvention,
    threshold: float,
    substituted: Literal["depth"] | None,
    warnings: list[str],
    timings_ms: dict[str, float],
) -> SaliencyReport:
    """Measure a map (H, W) in [0, 1]; the rest is reported as it is."""
    height, width = saliency.shape
    mask = saliency >= threshold
    return SaliencyReport(
        model_id=model_id,
        depth_convention=depth_convention,
        threshold=threshold,
        size=PictureSize(width=width, height=height),
        mean=float(saliency.mean(dtype=np.float64)),
        max=float(saliency.max()),
        area=float(mask.mean()),
        bounding_box=_bounding_box(mask),
        rle=RunLengths(size=(height, width), counts=run_lengths(mask)),
        map_png_base64=base64.b64encode(encode_png(Image.fromarray(_to_bytes(saliency)))).decode(),
        substituted=substituted,
        warnings=warnings,
        timings_ms=timings_ms,
    )


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of `mask` down its columns; the first is of False, possibly 0."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts: list[int] = np.diff(edges).tolist()
    return [0, *counts] if flat[0] else counts


def _bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    x, y = int(columns[0]), int(rows[0])
    return Box(x=x, y=y, width=int(columns[-1]) - x + 1, height=int(rows[-1]) - y + 1)


def _to_bytes(values: NDArray[np.float32] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.rint(values * np.float32(255)).astype(np.uint8)
