"""Plausible and often wrong depth for a photo of which only the object's mask is known.

A network that is trained on clean depth learns to copy its edges; real depth is blurred, blind,
shifted or about something else. So most of what happens here is damage, drawn anew per sample.
All maps are float32 (H, W), larger is nearer, in [0, 1] until the final normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Parts = NDArray[np.uint8]


def simulate_depth(
    rgb: NDArray[np.uint8],
    mask: Mask,
    rng: np.random.Generator,
    others: Sequence[Mask] = (),
    *,
    honest: bool = False,
    rival: Parts | None = None,
) -> Map:
    """Draw one depth map for a photo.

    Args:
        rgb: uint8 (H, W, 3); depth edges follow some of its edges.
        mask: bool (H, W), the object.
        rng: where all chance comes from.
        others: masks of other photos, any size, used as shapes of distractors.
        honest: depth shows the object clearly before what is around it; damage still follows.
        rival: uint8 (H, W), things in the photo that look like an object and are not meant, 0
            elsewhere; numbered from far to near, or all 1. They stand behind the object if depth
            is `honest`, and only depth tells them apart.

    Returns:
        float32 (H, W) in [0, 1], near = 1, missing = 0, as `model.preprocessing` answers it.
    """
    if not honest and rng.random() < 0.12:
        return _useless(rgb, rng, others)
    scene = _background(mask.shape, rng)
    kind = rng.random()
    if kind < 0.45:
        scene = _stand_up(scene, rgb, rng)
    elif kind < 0.8:
        scene += _image_regions(rgb, rng) * rng.uniform(0.05, 0.45)
    seen = _as_sensed(mask, rng)
    if honest:
        depth = _place_apart(scene, seen, mask, rival, rng)
    else:
        depth = _place_object(scene, seen, mask, rng)
    for _ in range(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))):
        depth = _place_distractor(depth, rgb, mask, rng, others)
    if rng.random() < 0.35:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        depth += (cv2.GaussianBlur(grey, (0, 0), 1.5) - grey.mean()) * rng.uniform(-0.2, 0.2)
    return _sense(depth, seen, rng)


def _background(shape: tuple[int, ...], rng: np.random.Generator) -> Map:
    """A ground plane with a horizon, a tilted plane, or clutter; unnormalised, around [0, 1]."""
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    y, x = y / h, x / w
    kind = rng.random()
    if kind < 0.5:  # ground: disparity grows linearly below the horizon
        horizon = rng.uniform(-0.3, 0.75) + rng.normal(0, 0.1) * (x - 0.5)
        scene = np.clip((y - horizon) / (1.2 - horizon), 0, None) * rng.uniform(0.4, 1.2)
        if rng.random() < 0.5:  # a wall or trees behind
            wall = y < horizon + rng.uniform(-0.1, 0.1)
            scene = np.where(wall, np.maximum(scene, rng.uniform(0, 0.35)), scene)
    elif kind < 0.9:  # a table, a floor from above, a wall
        direction = rng.normal((0.7, 0.0), (0.4, 0.4)) * rng.uniform(0, 1)
        scene = direction[0] * (y - 0.5) + direction[1] * (x - 0.5) + 0.4
    else:
        scene = _noise((h, w), rng, cells=int(rng.integers(2, 7))) * rng.uniform(0.2, 0.8)
    if rng.random() < 0.3:
        scene = scene + _noise((h, w), rng, int(rng.integers(3, 12))) * rng.uniform(0.0, 0.15)
    result: Map = np.ascontiguousarray(scene, np.float32)
    return result


def _noise(shape: tuple[int, int], rng: np.random.Generator, cells: int) -> Map:
    """Smooth noise in [0, 1] with about `cells` bumps along each side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    smooth: Map = cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 1)


def _image_regions(rgb: NDArray[np.uint8], rng: np.random.Generator) -> Map:
    """A height in [-1, 1] for each region of like colour: clutter whose edges the photo shares."""
    levels = int(rng.integers(2, 5))
    smooth = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(2, 6))
    bins = (smooth.astype(np.int32) * levels) // 256
    index = (bins[..., 0] * levels + bins[..., 1]) * levels + bins[..., 2]
    heights = rng.uniform(-1, 1, levels**3).astype(np.float32)
    result: Map = heights[index]
    return result


def _stand_up(scene: Map, rgb: NDArray[np.uint8], rng: np.random.Generator) -> Map:
    """Regions of like colour stand where their feet touch the ground, as in a stage set.

    Stereo depth looks like this: layers whose edges the photo shares, farther towards the top. What
    reaches the bottom of the picture, or is large, is the ground itself.
    """
    h, w = scene.shape
    small = cv2.resize(rgb, (96, 96), interpolation=cv2.INTER_AREA)
    levels = int(rng.integers(3, 6))
    bins = (cv2.GaussianBlur(small, (0, 0), rng.uniform(0.8, 2.5)).astype(np.int32) * levels) // 256
    index = (bins[..., 0] * levels + bins[..., 1]) * levels + bins[..., 2]
    ground = cv2.resize(scene, (96, 96), interpolation=cv2.INTER_AREA)
    standing, stands = ground.copy(), np.zeros((96, 96), np.float32)
    for value in np.unique(index):
        _, labels, stats, centres = cv2.connectedComponentsWithStats(
            (index == value).view(np.uint8)
        )
        for part in range(1, len(stats)):
            bottom = int(stats[part, cv2.CC_STAT_TOP] + stats[part, cv2.CC_STAT_HEIGHT]) - 1
            if stats[part, cv2.CC_STAT_AREA] < 12 or bottom > 92 or rng.random() < 0.15:
                continue
            if stats[part, cv2.CC_STAT_AREA] > 0.3 * 96 * 96 and rng.random() < 0.7:
                continue
            here = labels == part
            standing[here] = ground[bottom, int(centres[part][0])] + rng.normal(0, 0.04)
            stands[here] = 1
    layers = [cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR) for x in (standing, stands)]
    result: Map = scene + (layers[0] - scene) * layers[1]
    return result


def _as_sensed(mask: Mask, rng: np.random.Generator) -> Map:
    """The object's outline as a sensor sees it: soft (H, W) in [0, 1], moved, grown, torn."""
    h, w = mask.shape
    seen = mask.astype(np.float32)
    scale = max(h, w) / 256
    if rng.random() < 0.6:  # stereo: bent and shifted outline
        amplitude = rng.uniform(0, 7) * scale
        cells = int(rng.integers(2, 12))
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        dx = (_noise((h, w), rng, cells) - 0.5) * 2 * amplitude + rng.normal(0, 2) * scale
        dy = (_noise((h, w), rng, cells) - 0.5) * 2 * amplitude
        seen = cv2.remap(seen, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        size = int(rng.integers(1, 5) * scale) * 2 + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        seen = (cv2.dilate if rng.random() < 0.6 else cv2.erode)(seen, kernel)
    if rng.random() < 0.2:  # parts that the sensor does not tell from what is behind
        torn = _noise((h, w), rng, int(rng.integers(2, 8))) < rng.uniform(0.2, 0.55)
        seen = seen * (1 - torn * rng.uniform(0.5, 1.0))
    if rng.random() < 0.25 and mask.any():  # or a whole side: a dark foot, a far top
        rows, columns = np.nonzero(mask)
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        across = np.cos(angle) * x + np.sin(angle) * y
        inside = np.cos(angle) * columns + np.sin(angle) * rows
        lost = across > np.quantile(inside, rng.uniform(0.35, 0.9))
        seen = seen * (1 - lost * rng.uniform(0.6, 1.0))
    if rng.random() < 0.6:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.3, 4.0) * scale)
    result: Map = seen.astype(np.float32)
    return result


def _place_object(scene: Map, seen: Map, mask: Mask, rng: np.random.Generator) -> Map:
    """Stand the object on the ground, before the scene, level with it, or behind it."""
    if not mask.any():
        return scene
    rows = np.flatnonzero(mask.any(axis=1))
    inside = scene[mask]
    mode = rng.random()
    if mode < 0.45:  # stands where its foot touches
        foot = mask[max(rows[-1] - 3, 0) : rows[-1] + 1]
        level = float(scene[max(rows[-1] - 3, 0) : rows[-1] + 1][foot].mean())
        level += rng.uniform(-0.02, 0.2)
    elif mode < 0.85:
        level = float(np.quantile(inside, rng.uniform(0.5, 1.0))) + rng.uniform(0.05, 0.7)
    elif mode < 0.95:  # hardly seen
        level = float(np.median(inside)) + rng.uniform(-0.06, 0.1)
    else:  # behind what surrounds it
        level = float(np.quantile(inside, 0.2)) - rng.uniform(0.05, 0.3)
    y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]].astype(np.float32)
    tilt = rng.normal(0, 0.12, 2) * (rng.random() < 0.6)
    body = level + tilt[0] * (y / mask.shape[0] - 0.5) + tilt[1] * (x / mask.shape[1] - 0.5)
    if rng.random() < 0.5:
        inner = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
        body += np.sqrt(inner / max(float(inner.max()), 1.0)) * rng.uniform(-0.05, 0.2)
    if rng.random() < 0.4:
        body += (_noise(scene.shape, rng, int(rng.integers(3, 9))) - 0.5) * rng.uniform(0, 0.2)
    follow = rng.uniform(0, 0.7) * (rng.random() < 0.4)  # lies on the ground rather than stands
    body = (1 - follow) * body + follow * (scene + max(level - float(inside.mean()), 0) * 0.5)
    result: Map = (scene * (1 - seen) + body * seen).astype(np.float32)
    return result


def _place_apart(
    scene: Map, seen: Map, mask: Mask, rival: Parts | None, rng: np.random.Generator
) -> Map:
    """Put the rival, if any, where it stands in the scene, and the object clearly nearer."""
    depth, behind = scene, 0.0
    if rival is not None and rival.any():
        levels = scene.copy()
        numbered = rival.max() > 1
        parts = rival if numbered else cv2.connectedComponents(rival)[1]
        count = int(parts.max())
        rise = rng.uniform(0.1, 0.6) / count if numbered else 0.0
        for part in range(1, count + 1):
            here = parts == part
            if here.any():
                level = float(np.median(scene[here])) + rise * part + rng.uniform(0.0, 0.15)
                levels[here] = level
                behind = max(behind, level)
        outline = _as_sensed(rival > 0, rng)
        depth = scene * (1 - outline) + levels * outline
    before = max(float(np.quantile(scene[mask], 0.7)) if mask.any() else 0.5, behind)
    before += rng.uniform(0.15, 0.6)
    tilt = rng.normal(0, 0.05) * np.linspace(-0.5, 0.5, mask.shape[0], dtype=np.float32)[:, None]
    result: Map = (depth * (1 - seen) + (before + tilt) * seen).astype(np.float32)
    return result


def _place_distractor(
    depth: Map,
    rgb: NDArray[np.uint8],
    mask: Mask,
    rng: np.random.Generator,
    others: Sequence[Mask],
) -> Map:
    """Something that is not the object, at its depth or nearer."""
    h, w = mask.shape
    kind = rng.random()
    if kind < 0.4 and len(others):  # the shape of another object
        other = others[int(rng.integers(len(others)))].astype(np.uint8)
        size = int(rng.uniform(0.2, 0.7) * h), int(rng.uniform(0.2, 0.7) * w)
        other = cv2.resize(other, size[::-1], interpolation=cv2.INTER_NEAREST)
        shape = np.zeros((h, w), np.float32)
        top, left = int(rng.integers(0, h - size[0])), int(rng.integers(0, w - size[1]))
        shape[top : top + size[0], left : left + size[1]] = other
    elif kind < 0.75:  # a region of like colour in the photo
        smooth = cv2.GaussianBlur(rgb, (0, 0), 3).astype(np.float32)
        row, column = int(rng.integers(h)), int(rng.integers(w))
        alike = np.abs(smooth - smooth[row, column]).sum(axis=-1) < rng.uniform(30, 110)
        _, labels = cv2.connectedComponents(alike.astype(np.uint8))
        shape = (labels == labels[row, column]).astype(np.float32)
    else:  # a foreground edge: a table, a branch, a sill
        edge = rng.uniform(0.6, 0.95)
        y = np.linspace(0, 1, h, dtype=np.float32)[:, None]
        x = np.linspace(-0.5, 0.5, w, dtype=np.float32)
        shape = (y + rng.normal(0, 0.3) * x > edge).astype(np.float32)
        if rng.random() < 0.3 and h == w:
            shape = np.ascontiguousarray(shape.T)
    if rng.random() < 0.9:
        shape = shape * ~mask
    if rng.random() < 0.5:
        shape = cv2.GaussianBlur(np.ascontiguousarray(shape), (0, 0), rng.uniform(0.5, 4))
    level = float(np.median(depth[mask])) if mask.any() else 0.6
    level += rng.normal(0.05, 0.2)
    result: Map = (depth * (1 - shape) + level * shape).astype(np.float32)
    return result


def _sense(depth: Map, seen: Map, rng: np.random.Generator) -> Map:
    """What a sensor and a file format do: resolution, noise, curve, levels, holes, range."""
    h, w = depth.shape
    if rng.random() < 0.4:
        factor = rng.uniform(1.5, 6)
        small = cv2.resize(depth, (int(w / factor), int(h / factor)), interpolation=cv2.INTER_AREA)
        up = cv2.INTER_NEAREST if rng.random() < 0.3 else cv2.INTER_LINEAR
        depth = cv2.resize(small, (w, h), interpolation=up)
    if rng.random() < 0.4:
        depth = cv2.GaussianBlur(depth, (0, 0), rng.uniform(0.5, 5.0))
    if rng.random() < 0.5:
        depth = depth + rng.standard_normal((h, w), np.float32) * rng.uniform(0, 0.05)
    if rng.random() < 0.2:
        depth = depth + (_noise((h, w), rng, 16) - 0.5) * rng.uniform(0, 0.12)
    depth = _stretch(depth)
    if rng.random() < 0.5:
        depth = depth ** np.float32(np.exp(rng.normal(0, 0.45)))
    if rng.random() < 0.2:  # a few pixels take up most of the range
        start, width = rng.uniform(0, 0.5), rng.uniform(0.3, 0.6)
        depth = start + width * depth
        corner = _noise((h, w), rng, 6) > 0.93
        depth = np.where(corner, np.float32(rng.random() < 0.5), depth)
    if rng.random() < 0.04:  # polarity mistaken
        depth = 1 - depth
    if rng.random() < 0.3:
        levels = int(rng.integers(8, 64))
        depth = (np.round(depth * levels) / levels).astype(np.float32)
    depth = np.clip(depth, 0, 1).astype(np.float32)
    if rng.random() < 0.3:
        quality = int(rng.integers(20, 90))
        _, file = cv2.imencode(
            ".jpg", (depth * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
        depth = (decoded / 255).astype(np.float32)
    depth = _stretch(depth)
    if rng.random() < 0.2:
        holes = _noise((h, w), rng, int(rng.integers(4, 24))) > rng.uniform(0.88, 1.0)
        if rng.random() < 0.5:  # the shadow of the emitter beside the object
            shift = int(rng.uniform(-0.04, 0.04) * w)
            holes |= (np.roll(seen, shift, axis=1) > 0.5) & (seen < 0.5)
        depth = np.where(holes, 0, depth)
    result: Map = depth.astype(np.float32)
    return result


def _stretch(depth: Map) -> Map:
    """Scaled and shifted to [0, 1]; a constant becomes 0."""
    low, high = float(depth.min()), float(depth.max())
    stretched: Map = ((depth - low) / max(high - low, 1e-6)).astype(np.float32)
    return stretched


def _useless(rgb: NDArray[np.uint8], rng: np.random.Generator, others: Sequence[Mask]) -> Map:
    """Depth that says nothing: none, constant, noise, an empty scene, or another scene's."""
    shape = rgb.shape[:2]
    kind = rng.random()
    if kind < 0.4:
        return np.zeros(shape, np.float32)
    if kind < 0.5:
        return np.full(shape, 0.5, np.float32)
    empty = np.zeros(shape, np.float32)
    scene = _background(shape, rng)
    if kind < 0.75 and len(others):
        other = others[int(rng.integers(len(others)))]
        wrong = cv2.resize(other.astype(np.uint8), shape[::-1]) > 0
        scene = _place_object(scene, _as_sensed(wrong, rng), wrong, rng)
    return _sense(scene, empty, rng)
