"""Generated re-identification sets in each of the public layouts: an identity is its tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAIN, TEST = range(1, 21), range(101, 106)
"""Identities."""


def pair(pid: int, camid: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colour uint8 (128, 256, 3) and near-infrared (128, 256); the identity decides the tiles."""
    own = np.random.default_rng(pid)
    tiles = own.integers(0, 230, (4, 8, 4))
    cells = np.kron(tiles, np.ones((32, 32, 1), np.int64))
    noise = np.random.default_rng((pid, camid, number)).integers(0, 25, cells.shape)
    values = (cells + noise).astype(np.uint8)
    return values[..., :3], values[..., 3]


def sights(pids: range) -> list[tuple[int, int, int]]:
    """(pid, camid, number): two pictures by each of two cameras."""
    return [(pid, camid, number) for pid in pids for camid in (1, 2) for number in (0, 1)]


def write_rgbn300(root: Path, panels: int = 2) -> None:
    for part, pids in (("bounding_box_train", TRAIN), ("query", TEST), ("bounding_box_test", TEST)):
        folder = root / "rgbir" / part
        folder.mkdir(parents=True)
        for pid, camid, number in sights(pids):
            if part == "query" and number:
                continue
            rgb, nir = pair(pid, camid, number)
            grey = np.repeat(nir[..., None], 3, axis=2)
            joined = np.hstack((rgb, *[grey] * (panels - 1)))
            Image.fromarray(joined).save(folder / f"{pid:04}_c{camid}_{number:03}.jpg")


def write_rgbnt100(root: Path) -> None:
    write_rgbn300(root, panels=3)


def write_rgbnt201(root: Path) -> None:
    for part, pids in (("train_171", TRAIN), ("test", TEST)):
        for folder in ("RGB", "NI", "TI"):
            (root / part / folder).mkdir(parents=True)
        for pid, camid, number in sights(pids):
            rgb, nir = (Image.fromarray(x).resize((64, 128)) for x in pair(pid, camid, number))
            name = f"{pid:06}_cam{camid}_0_{number:02}.jpg"
            rgb.save(root / part / "RGB" / name)
            for folder in ("NI", "TI"):
                nir.convert("RGB").save(root / part / folder / name)


def write_msvr310(root: Path) -> None:
    for part, pids in (
        ("bounding_box_train", TRAIN),
        ("query3", TEST),
        ("bounding_box_test", TEST),
    ):
        for pid, scene, number in sights(pids):
            folders = [root / part / f"{pid:04}" / name for name in ("vis", "ni", "th")]
            rgb, nir = pair(pid, scene, number)
            name = f"{pid:04}_s{scene:03}_v{number + 1}_000.jpg"
            for folder, values in zip(folders, (rgb, nir, nir), strict=True):
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / name)


def write_folders(root: Path) -> None:
    for part, pids in (("train", TRAIN), ("query", TEST), ("gallery", TEST)):
        for name in ("rgb", "nir"):
            (root / part / name).mkdir(parents=True)
        for pid, camid, number in sights(pids):
            rgb, nir = (x[::4, ::4] for x in pair(pid, camid, number))
            Image.fromarray(rgb).save(root / part / "rgb" / f"{pid}_c{camid}_{number}.jpg")
            deep = nir.astype(np.uint16) * 257
            Image.fromarray(deep).save(root / part / "nir" / f"{pid}_c{camid}_{number}.png")


def write_vehicles(root: Path) -> None:
    for part, pids in (("train", TRAIN), ("val", TEST)):
        (root / part).mkdir(parents=True)
        for pid in pids:
            for camid in (1, 2):
                rgb = pair(pid, camid, 0)[0][::2, ::2]
                Image.fromarray(rgb).save(root / part / f"car_{pid:04}_cam{camid}.jpg")


WRITERS = {
    "rgbn300": write_rgbn300,
    "rgbnt100": write_rgbnt100,
    "rgbnt201": write_rgbnt201,
    "msvr310": write_msvr310,
    "folders": write_folders,
    "vehicles": write_vehicles,
}
"""What writes each layout to an empty folder."""
