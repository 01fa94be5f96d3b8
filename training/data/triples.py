"""Folders of `rgb/ depth/ gt/` triples with equal stems, under any of their usual names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.preprocessing import DepthConvention, normalise_depth, prepare_depth, prepare_rgb
from training.data.augment import joint_crop, photometric
from training.data.sample import Draw, Sample

Role = Literal["rgb", "depth", "gt"]
"""What a picture is in a triple."""
ALIASES: dict[Role, tuple[str, ...]] = {
    "rgb": ("rgb", "image", "images", "img", "imgs", "left"),
    "depth": ("depth", "depths", "dep"),
    "gt": ("gt", "gts", "mask", "masks", "label", "labels"),
}
"""Folder names of the public packs, compared without case."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".npy")


@dataclass(frozen=True)
class Pair:
    """One registered pair on disk."""

    rgb: Path
    depth: Path


@dataclass(frozen=True)
class Triple(Pair):
    """One registered pair and its mask on disk."""

    gt: Path
    convention: DepthConvention = "near_bright"
    """How its depth is written."""

    @property
    def held_out(self) -> bool:
        """Whether validation owns it where no validation folder is given: 5 %, by a hash."""
        return hashlib.sha256(self.rgb.stem.encode()).digest()[0] < 13


def find_triples(root: Path, convention: DepthConvention = "near_bright") -> list[Triple]:
    """All triples in `root`, sorted by stem.

    Raises:
        ValueError: a folder is missing or doubled, or a file has no partner or two; all are named.
    """
    return [
        Triple(files["rgb"], files["depth"], files["gt"], convention)
        for files in find_partners(root, ("rgb", "depth", "gt"))
    ]


def find_partners(root: Path, roles: Sequence[Role]) -> list[dict[Role, Path]]:
    """Files of equal stem in the folder of each role, sorted by stem; errors as `find_triples`."""
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    by_role = {role: _files(_folder(root, role)) for role in roles}
    stems = set.union(*(set(files) for files in by_role.values()))
    for role, files in by_role.items():
        missing = sorted(stems - set(files))
        if missing:
            raise ValueError(f"{root}: {len(missing)} without {role}: {shown(missing)}")
    if not stems:
        raise ValueError(f"{root} holds no pictures")
    return [{role: by_role[role][stem] for role in roles} for stem in sorted(stems)]


def role_folders(root: Path, role: Role) -> list[Path]:
    """Folders in `root` that are named as the role's usually are."""
    return [
        child
        for child in sorted(root.iterdir())
        if child.is_dir() and child.name.lower() in ALIASES[role]
    ]


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first few names of many, for a message."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _folder(root: Path, role: Role) -> Path:
    found = role_folders(root, role)
    if len(found) != 1:
        names = [folder.name for folder in found]
        raise ValueError(
            f"{root}: expected one folder for {role} ({', '.join(ALIASES[role])}), found {names}"
        )
    return found[0]


def _files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            other = files.setdefault(path.stem, path)
            if other != path:
                raise ValueError(f"{folder}: {other.name} and {path.name} have one name")
    return files


def read_depth(path: Path) -> NDArray[Any]:
    """Depth at native precision, (H, W).

    Raises:
        ValueError: a colour picture.
    """
    if path.suffix.lower() == ".npy":
        values: NDArray[Any] = np.load(path, allow_pickle=False)
        return values
    with Image.open(path) as image:
        if image.mode in ("RGB", "RGBA", "P"):
            colour = np.asarray(image.convert("RGB"))
            if not (colour == colour[..., :1]).all():
                raise ValueError(f"{path} is a colour picture, expected depth")
            return colour[..., 0]
        return np.asarray(image)


def read_gt(path: Path) -> NDArray[np.bool_]:
    """The mask, (H, W); the object is above 128, as the field's evaluators read it.

    Raises:
        ValueError: all of it is at most 128, but not 0, as in masks that are written with 0 and 1.
    """
    with Image.open(path) as image:
        values = np.asarray(image.convert("L"))
    if 0 < values.max() <= 128:
        raise ValueError(f"{path}: no value is above 128, the largest is {values.max()}")
    return values > 128


class TrainTriples:
    """Training samples without end: sample i is a pure function of (seed, i).

    Args:
        triples: visited in an order shuffled anew each epoch.
        draw: sizes, batches and seed.
    """

    def __init__(self, triples: Sequence[Triple], draw: Draw) -> None:
        self.items = list(triples)
        self.draw = draw

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the endless sequence."""
        triple = self.items[self.draw.shuffled(index, len(self.items))]
        with Image.open(triple.rgb) as image:
            rgb = np.asarray(image.convert("RGB"))
        near, _ = normalise_depth(read_depth(triple.depth), triple.convention)
        gt = read_gt(triple.gt).astype(np.uint8) * 255
        if not rgb.shape[:2] == near.shape == gt.shape:
            raise ValueError(
                f"{triple.rgb.stem}: rgb {rgb.shape[:2]}, depth {near.shape}, gt {gt.shape}"
            )
        rng = self.draw.rng(index)
        rgb, near, gt = joint_crop((rgb, near, gt), gt, self.draw.size(index), rng)
        return Sample(photometric(rgb, rng), near[..., None], (gt > 127).astype(np.float32))


class HeldOutTriples:
    """Validation triples as they are, resized.

    Args:
        triples: the held-out triples.
        size: (height, width) in pixels.
    """

    def __init__(self, triples: Sequence[Triple], *, size: tuple[int, int]) -> None:
        self.triples = list(triples)
        self.size = size

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: int) -> Sample:
        """Triple `index`."""
        triple = self.triples[index]
        with Image.open(triple.rgb) as image:
            rgb = prepare_rgb(image, self.size)
        aux = prepare_depth(read_depth(triple.depth), triple.convention, self.size)
        gt = read_gt(triple.gt).astype(np.float32)
        height, width = self.size
        gt = cv2.resize(gt, (width, height), interpolation=cv2.INTER_AREA)
        return Sample(rgb, aux, (gt > 0.5).astype(np.float32))
