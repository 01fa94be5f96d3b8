"""What makes a prepared pair less useful than it could be, as sentences for its sender."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.errors import Place
from model.preprocessing import DepthConvention

_MOST = 0.9
"""Share of pixels at the upper end that means a saturated picture, and not a white background."""
_COLOURLESS = 3
"""Levels by which JPEG parts three equal channels."""
_CLEARLY = 1.3
"""How many times as rough as the other one a picture is that is clearly rougher."""
_STEP = 8
"""Every so many-th pixel of a row and a column shows colour where there is some."""
_FEW = 0.005
"""Share of missing pixels that a depth camera always exceeds."""
_MILLIMETRES = (300, 20_000)
"""What the farthest pixel of an indoor or street camera reads, whose full range is 65535."""


def doubt_rgb(rgb: NDArray[np.uint8], place: Place) -> list[str]:
    """Doubts about a colour picture (H, W, 3)."""
    planes = _planes(rgb)
    flat = [np.ptp(plane) == 0 for plane in planes]
    if all(flat):
        return [f"{place} is constant"]
    doubts = [
        f"the {colour} channel of {place} is constant"
        for colour, is_flat in zip(("red", "green", "blue"), flat, strict=True)
        if is_flat
    ]
    return doubts + _doubt_range(planes.min(axis=0) == 255, place)


def doubt_aux(aux: NDArray[np.float32], place: Place) -> list[str]:
    """Doubts about a depth or near-infrared map (H, W, 1) in [0, 1]."""
    if np.ptp(aux) < 1e-6:
        return [f"{place} is constant"]
    return _doubt_range(aux > 0.999, place)


def doubt_valid(share: float, place: Place) -> list[str]:
    """Doubts about depth of which only a `share` of the pixels is valid."""
    return [f"{place} is missing in {1 - share:.0%} of its pixels"] if share < 0.5 else []


def doubt_convention(
    depth: NDArray[np.generic], convention: DepthConvention, place: Place
) -> list[str]:
    """Doubts whether depth (H, W), as it was sent, is the brightness that it is read as.

    16-bit values of a few thousand with zeros among them are a depth camera's millimetres, of
    which zero, missing, would be read as the farthest or the nearest.
    """
    if convention == "metric" or depth.dtype.kind not in "ui" or depth.dtype.itemsize == 1:
        return []
    low, high = _MILLIMETRES
    missing = depth.size - np.count_nonzero(depth)
    if missing < _FEW * depth.size or not low <= depth.max() <= high:
        return []
    return [f"{place} looks like millimetres with 0 for missing: is it depth_convention=metric?"]


def doubt_order(rgb: NDArray[np.uint8], depth: NDArray[np.float32]) -> list[str]:
    """Doubts whether colour (H, W, 3) and depth (H, W, 1) are in each other's place.

    A grey picture that is smoother than its depth. Of 25 real pairs every one, once grey, is 1.7
    to 13 times as rough as its depth.
    """
    if np.ptp(_planes(rgb[::_STEP, ::_STEP]), axis=0).max() > _COLOURLESS:
        return []  # as nearly always, after a look at few pixels
    spread = np.ptp(_planes(rgb), axis=0).max()
    if spread > _COLOURLESS or np.ptp(rgb) == 0 or np.ptp(depth) == 0:
        return []
    if _CLEARLY * _roughness(rgb[..., 0].astype(np.float32)) >= _roughness(depth[..., 0]):
        return []
    return ["rgb has no colour and is smoother than depth: are the two swapped?"]


def _planes(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, H, W): reductions over a last axis of three are dozens of times slower."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def _doubt_range(full: NDArray[np.bool_], place: Place) -> list[str]:
    share = np.count_nonzero(full) / full.size
    return [f"{place} is saturated in {share:.0%} of its pixels"] if share > _MOST else []


def _roughness(values: NDArray[np.float32]) -> float:
    """Mean step between neighbours, as a share of the range."""
    return float(np.abs(np.diff(values, axis=1)).mean() / np.ptp(values))
