"""Folders of `rgb/ depth/ gt/` triples with equal stems, under any of their usual names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.preprocessing import DepthConvention

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


@contextmanager
def picture(path: Path) -> Iterator[Image.Image]:
    """A picture to be decoded inside.

    Raises:
        ValueError: it cannot be; the message names it.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture or an array on disk; errors as in `picture`."""
    if path.suffix.lower() == ".npy":
        height, width = np.load(path, mmap_mode="r", allow_pickle=False).shape
        return height, width
    with picture(path) as image:
        return image.height, image.width


def read_depth(path: Path) -> NDArray[Any]:
    """Depth at native precision, (H, W).

    Raises:
        ValueError: a colour picture, or one that cannot be read.
    """
    if path.suffix.lower() == ".npy":
        values: NDArray[Any] = np.load(path, allow_pickle=False)
        return values
    with picture(path) as image:
        if image.mode in ("RGB", "RGBA", "P"):
            colour = np.asarray(image.convert("RGB"))
            if not (colour == colour[..., :1]).all():
                raise ValueError(f"{path} is a colour picture, expected depth")
            return colour[..., 0]
        return np.asarray(image)


def read_gt(path: Path) -> NDArray[np.bool_]:
    """The mask, (H, W); the object is above 128, as the field's evaluators read it.

    Raises:
        ValueError: all of it is at most 128, but not 0, as in masks that are written with 0 and 1;
            or it cannot be read.
    """
    with picture(path) as image:
        values = np.asarray(image.convert("L"))
    if 0 < values.max() <= 128:
        raise ValueError(f"{path}: no value is above 128, the largest is {values.max()}")
    return values > 128
