"""Photos with a mask of their main object, made into RGB-D samples by simulating depth.

Layout: `<root>/<set>/{rgb/*.jpg, gt/*.png}`; backgrounds are any pictures in one folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.augment import joint_crop, photometric
from training.data.depth_simulator import simulate_depth
from training.data.sample import Draw, Sample

HELD_OUT_SETS = ("grabcut_bsds",)
"""Small and diverse: a good judge, so never trained on."""
VIDEO_SETS = ("davis16_val",)
"""Stems are `<video>_<frame>`; frames of one video stay on one side of the split."""


@dataclass(frozen=True)
class Photo:
    """One photo and its mask on disk."""

    rgb: Path
    gt: Path
    set_name: str

    @property
    def held_out(self) -> bool:
        """Whether validation owns this photo: by set, else by a hash of its stem (5 %)."""
        if self.set_name in HELD_OUT_SETS:
            return True
        if self.set_name in VIDEO_SETS:
            video = self.rgb.stem.rsplit("_", 1)[0]
            return _hash(video) % 100 < 15
        return _hash(f"{self.set_name}/{self.rgb.stem}") % 100 < 5


def find_photos(root: Path) -> list[Photo]:
    """All photos below `root`, sorted.

    Raises:
        ValueError: there are none, or a photo has no mask; the message names it.
    """
    photos = [
        Photo(rgb, rgb.parent.parent / "gt" / f"{rgb.stem}.png", rgb.parent.parent.name)
        for rgb in sorted(root.glob("*/rgb/*"))
        if rgb.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    if not photos:
        raise ValueError(f"no photos below {root}: expected <set>/rgb/*.jpg and <set>/gt/*.png")
    for photo in photos:
        if not photo.gt.is_file():
            raise ValueError(f"{photo.rgb} has no mask at {photo.gt}")
    return photos


class SimulatedDepth:
    """Training samples without end: sample i is a pure function of (seed, i).

    Args:
        photos: what to draw from.
        backgrounds: pictures to paste objects onto; empty for no pasting.
        draw: sizes, batches and seed.
        shares: factor on how often a set is drawn, by its name; 1 where none is given.

    Raises:
        ValueError: a share is given to a set that has no photos.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        backgrounds: Sequence[Path],
        draw: Draw,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.items = list(photos)
        self.backgrounds = list(backgrounds)
        self.draw = draw
        # Sets weigh as the square root of their count: a large set does not drown the others.
        names = [photo.set_name for photo in self.items]
        counts = {name: names.count(name) for name in set(names)}
        unknown = set(shares or {}) - set(counts)
        if unknown:
            raise ValueError(f"shares for {sorted(unknown)}, but the sets are {sorted(counts)}")
        weights = np.array([(shares or {}).get(name, 1.0) * counts[name] ** -0.5 for name in names])
        self._probabilities = weights / weights.sum()

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the endless sequence."""
        rng = self.draw.rng(index)
        rgb, gt = read_photo(self._photo(rng))
        kind = rng.random()
        thing = kind < 0.2
        if kind < 0.35 and self.backgrounds:
            if thing:
                rgb, gt = make_thing(self._background(rng), gt, rng)
            rgb, gt = _paste(rgb, gt, self._background(rng), rng)
        rivals = int(rng.integers(1, 5)) if kind < 0.1 or kind > 0.75 else 0
        rival = np.zeros_like(gt)
        whole = rgb
        for _ in range(rivals):
            rgb, one = _add_rival(rgb, gt, *self._rival(whole, gt, rng), rng)
            rival = np.maximum(rival, one)
        rgb, gt, rival = joint_crop((rgb, gt, rival), gt, self.draw.size(index), rng)
        near = gt > 127  # what depth shows before the rest
        parts = (rival > 127).astype(np.uint8)
        crowded = rng.random()
        if crowded < 0.12:
            rgb, parts = stand_in_crowd(rgb, near, rng)
        elif crowded < 0.22 and self.backgrounds:
            rgb, support = lie_on_support(rgb, near, self._background(rng), rng)
            near = near | support
        others = [read_mask(self._photo(rng).gt) > 127 for _ in range(2)]
        # Where the photo alone cannot tell what is meant, depth must.
        honest = thing or rivals > 0 or crowded < 0.22
        aux = simulate_depth(rgb, near, rng, others, honest=honest, rival=parts)
        return Sample(photometric(rgb, rng), aux[..., None], (gt > 127).astype(np.float32))

    def _photo(self, rng: np.random.Generator) -> Photo:
        return self.items[int(rng.choice(len(self.items), p=self._probabilities))]

    def _rival(
        self, rgb: NDArray[np.uint8], gt: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Something to lay behind an object: its like, another photo's object, or a thing."""
        kind = rng.random()
        if kind < 0.3:
            return rgb, gt
        if kind < 0.65 or not self.backgrounds:
            return read_photo(self._photo(rng))
        return make_thing(self._background(rng), gt, rng)

    def _background(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        with Image.open(self.backgrounds[int(rng.integers(len(self.backgrounds)))]) as image:
            return np.asarray(image.convert("RGB"))


class HeldOutDepth:
    """The validation split: photo i as it is, with depth fixed by its index.

    Args:
        photos: the held-out photos.
        size: (height, width) in pixels.
        seed: of the simulated depth.
    """

    def __init__(self, photos: Sequence[Photo], *, size: tuple[int, int], seed: int = 0) -> None:
        self.photos = list(photos)
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Sample:
        """Photo `index`."""
        rgb, gt = read_photo(self.photos[index])
        height, width = self.size
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        gt = cv2.resize(gt, (width, height), interpolation=cv2.INTER_AREA)
        n = len(self.photos)
        others = [read_mask(self.photos[(index + k) % n].gt) > 127 for k in (1, 2)]
        rng = np.random.default_rng((self.seed, 2, index))
        aux = simulate_depth(rgb, gt > 127, rng, others)
        return Sample(rgb, aux[..., None], (gt > 127).astype(np.float32))


def read_photo(photo: Photo) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colour uint8 (H, W, 3) and mask uint8 (H, W) of 0 and 255."""
    with Image.open(photo.rgb) as image:
        rgb = np.asarray(image.convert("RGB"))
    gt = read_mask(photo.gt)
    if gt.shape != rgb.shape[:2]:
        raise ValueError(f"{photo.gt} is {gt.shape}, its photo {rgb.shape[:2]}")
    return rgb, gt


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as uint8 (H, W) in 0..255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _paste(
    rgb: NDArray[np.uint8],
    gt: NDArray[np.uint8],
    scene: NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut the object out and lay it, scaled and moved, on another picture."""
    h, w = gt.shape
    crop = rng.uniform(0.5, 1.0)
    bh, bw = int(scene.shape[0] * crop), int(scene.shape[1] * crop)
    top, left = (int(rng.integers(scene.shape[i] - n + 1)) for i, n in ((0, bh), (1, bw)))
    scene = cv2.resize(scene[top : top + bh, left : left + bw], (w, h))
    if rng.random() < 0.6:  # out of focus, and less of a rival
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(1, 6))
    scale = rng.uniform(0.5, 1.1)
    dx, dy = rng.uniform(-0.2, 0.2) * w, rng.uniform(-0.2, 0.2) * h
    move = np.array([[scale, 0, (1 - scale) * w / 2 + dx], [0, scale, (1 - scale) * h / 2 + dy]])
    moved = cv2.warpAffine(gt, move, (w, h), flags=cv2.INTER_LINEAR)
    if (moved > 127).mean() < 0.02:
        return rgb, gt
    rgb = cv2.warpAffine(rgb, move, (w, h), flags=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.5, 1.5))[..., None] / 255.0
    return (rgb * alpha + scene * (1 - alpha)).astype(np.uint8), moved


def make_thing(
    texture: NDArray[np.uint8], outline: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A thing of no known class: a plain or borrowed outline, filled from another picture.

    Args:
        texture: uint8 (h, w, 3), what it is made of.
        outline: uint8 (H, W), a mask that it may take on.
        rng: where all chance comes from.

    Returns:
        Colour uint8 (H, W, 3), and mask uint8 (H, W) of 0 and 255.
    """
    h, w = outline.shape
    part = rng.uniform(0.15, 1.0)
    th, tw = max(int(texture.shape[0] * part), 8), max(int(texture.shape[1] * part), 8)
    top, left = (int(rng.integers(texture.shape[i] - n + 1)) for i, n in ((0, th), (1, tw)))
    rgb = cv2.resize(texture[top : top + th, left : left + tw], (w, h)).astype(np.float32)
    if rng.random() < 0.6:  # mostly of one colour
        colour = rng.uniform(0, 255, 3)
        rgb = rgb + (colour - rgb) * rng.uniform(0.4, 1.0)
    light = np.linspace(rng.uniform(0.6, 1.3), rng.uniform(0.6, 1.3), w, dtype=np.float32)
    rgb = np.clip(rgb * light[:, None], 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        return rgb, outline
    mask = np.zeros_like(outline)
    for _ in range(int(rng.integers(1, 4))):
        centre = (int(rng.uniform(0.35, 0.65) * w), int(rng.uniform(0.35, 0.65) * h))
        axes = (int(rng.uniform(0.08, 0.35) * w), int(rng.uniform(0.08, 0.35) * h))
        angle = rng.uniform(0, 180)
        if rng.random() < 0.5:
            cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)
        else:
            sides = (2 * axes[0], 2 * axes[1])
            corners = cv2.boxPoints((centre, sides, angle)).astype(np.int32)
            cv2.fillPoly(mask, [corners], 255)
    return rgb, mask


def _add_rival(
    rgb: NDArray[np.uint8],
    gt: NDArray[np.uint8],
    other_rgb: NDArray[np.uint8],
    other_gt: NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut another photo's object out and lay it, smaller, behind this photo's object.

    Returns:
        The photo, and the rival's visible mask, uint8 (H, W); it may be empty.
    """
    h, w = gt.shape
    rows, columns = (np.flatnonzero((other_gt > 127).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return rgb, np.zeros_like(gt)
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut_rgb, cut_gt = other_rgb[box], other_gt[box]
    scale = rng.uniform(0.25, 0.6) * min(h / cut_gt.shape[0], w / cut_gt.shape[1])
    size = max(int(cut_gt.shape[1] * scale), 4), max(int(cut_gt.shape[0] * scale), 4)
    cut_rgb = cv2.resize(cut_rgb, size, interpolation=cv2.INTER_AREA)
    cut_gt = cv2.resize(cut_gt, size, interpolation=cv2.INTER_AREA)
    top, left = int(rng.integers(h - size[1] + 1)), int(rng.integers(w - size[0] + 1))
    mask = np.zeros_like(gt)
    mask[top : top + size[1], left : left + size[0]] = cut_gt
    mask = np.where(gt > 64, 0, mask).astype(np.uint8)
    layer = rgb.copy()
    layer[top : top + size[1], left : left + size[0]] = cut_rgb
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.7)[..., None] / 255.0
    return (layer * alpha + rgb * (1 - alpha)).astype(np.uint8), mask


def stand_in_crowd(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Fill the picture with the object's like, so that depth alone says which one is meant.

    Args:
        rgb: uint8 (H, W, 3).
        mask: bool (H, W), the object; it stays where it is, before all others.
        rng: where all chance comes from.

    Returns:
        Colour, and uint8 (H, W): the others, numbered from far to near, 0 elsewhere.
    """
    h, w = mask.shape
    parts = np.zeros((h, w), np.uint8)
    if not 0.02 < mask.mean() < 0.5:
        return rgb, parts
    scene = rgb.copy()
    rows, columns = np.nonzero(mask)
    centre = (float(columns.mean()), float(rows.mean()))
    count = int(rng.integers(4, 17))
    for part in range(1, count + 1):
        scale = rng.uniform(0.5, 0.8) + 0.25 * part / count
        move = cv2.getRotationMatrix2D(centre, rng.normal(0, 25), scale)
        move[:, 2] += (rng.uniform(0, w) - centre[0], rng.uniform(0, h) - centre[1])
        if rng.random() < 0.5:
            move = move @ np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]])
        here = cv2.warpAffine(mask.view(np.uint8) * 255, move, (w, h)) > 127
        copy = cv2.warpAffine(rgb, move, (w, h), borderMode=cv2.BORDER_REPLICATE)
        light = rng.uniform(0.7, 1.1)
        scene[here] = np.clip(copy[here] * light, 0, 255).astype(np.uint8)
        parts[here] = part
    scene[mask] = rgb[mask]
    parts[mask] = 0
    return scene, parts


def lie_on_support(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    texture: NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Lay something under the object that is as near as it, and not meant: a leaf, a plate, a hand.

    Args:
        rgb: uint8 (H, W, 3).
        mask: bool (H, W), the object.
        texture: uint8 (h, w, 3), what the support is made of.
        rng: where all chance comes from.

    Returns:
        Colour, and bool (H, W): what is seen of the support.
    """
    h, w = mask.shape
    if not 0.02 < mask.mean() < 0.4:
        return rgb, np.zeros_like(mask)
    material, _ = make_thing(texture, mask.view(np.uint8) * 255, rng)
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    grow = rng.uniform(0.7, 1.4, 2)
    dy = (y - rows.mean() - rng.normal(0, 0.05) * h) / (grow[0] * max(np.ptp(rows), 8))
    dx = (x - columns.mean() - rng.normal(0, 0.05) * w) / (grow[1] * max(np.ptp(columns), 8))
    # A round outline with a few lobes.
    lobes = 1 + rng.uniform(0, 0.25) * np.cos(int(rng.integers(2, 6)) * np.arctan2(dy, dx))
    shape = dx**2 + dy**2 < (0.75 * lobes) ** 2
    edge = cv2.GaussianBlur((shape & ~mask).astype(np.float32), (0, 0), 0.7)[..., None]
    edge[mask] = 0
    scene = (material * edge + rgb * (1 - edge)).astype(np.uint8)
    return scene, shape & ~mask


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
