"""Re-identification data sets as they lie on disk: who is on which picture, seen by which camera.

Sources of the layouts: the authors' and HAMNet's, TOP-ReID's and DeMo's loaders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.nir_simulator import simulate_nir

Layout = Literal["rgbn300", "rgbnt100", "rgbnt201", "msvr310", "folders", "vehicles"]
"""How a data set lies on disk.

`rgbn300`, `rgbnt100`: `{bounding_box_train,query,bounding_box_test}/<id>_c<camera>*.jpg`, perhaps
below `rgbir/`, with colour and near-infrared side by side in one file, 256 x 128 pixels each.
`rgbnt201`: `{train_171,test}/{RGB,NI}/<6 digits>_cam<n>*`; the test pictures are both query and
gallery.
`msvr310`: `{bounding_box_train,query3,bounding_box_test}/<id>/{vis,ni}/<id>_s<scene>_v<camera>*`,
of 4, 3 and 1 digits.
`folders`: `{train,query,gallery}/{rgb,nir}/<id>_c<camera>*` with equal stems; `cam` for `c` is
fine. `test/` stands for both query and gallery, and `{rgb,nir}/` alone for all three.
`vehicles`: `{train,val}/<id>_cam<n>.jpg` or one such folder, colour alone, near-infrared simulated;
camera 1 asks for the others.
"""

Rule = Literal["camera", "scene"]
"""What a query must not find: its own identity in the same camera, or in the same scene."""

PANEL = (128, 256)
"""Height and width of one modality in a file that holds several."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
COLOURFUL = 8.0
"""Mean difference of a picture's channels, in levels of 255, that JPEG alone does not make."""


class Picture(NamedTuple):
    """A file, or one modality of it."""

    path: Path
    panel: int | None = None
    """Which one of several side by side, from the left; none: the file is one picture."""


@dataclass(frozen=True)
class Crop:
    """One sight of an identity."""

    rgb: Picture
    nir: Picture | None
    """None: to be simulated."""
    pid: str
    camid: int
    scene: int = 0


@dataclass(frozen=True)
class Trial:
    """What a model is judged on."""

    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]
    rule: Rule

    @property
    def simulated(self) -> bool:
        """Whether near-infrared is simulated, which every number must say."""
        return any(crop.nir is None for crop in (*self.query, *self.gallery))


def find_train(root: Path, layout: Layout) -> tuple[Crop, ...]:
    """The training crops of a data set.

    Raises:
        ValueError: the folder is not laid out so; the message names what is missing.
    """
    if layout in ("rgbn300", "rgbnt100"):
        return _panels(_below(root, "rgbir") / "bounding_box_train")
    if layout == "rgbnt201":
        return _rgbnt201(root / "train_171")
    if layout == "msvr310":
        return _msvr310(root / "bounding_box_train")
    if layout == "folders":
        return _two_folders(_below(root, "train"))
    if layout == "vehicles":
        return _colour_only(_below(root, "train"))
    raise ValueError(f"unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")


def find_trial(root: Path, layout: Layout) -> Trial:
    """The query and gallery crops of a data set, and its rule.

    Raises:
        ValueError: the folder is not laid out so; the message names what is missing.
    """
    if layout in ("rgbn300", "rgbnt100"):
        base = _below(root, "rgbir")
        return Trial(_panels(base / "query"), _panels(base / "bounding_box_test"), "camera")
    if layout == "rgbnt201":
        crops = _rgbnt201(root / "test")
        return Trial(crops, crops, "camera")
    if layout == "msvr310":
        return Trial(_msvr310(root / "query3"), _msvr310(root / "bounding_box_test"), "scene")
    if layout == "folders":
        if (root / "query").is_dir():
            query, gallery = (_two_folders(root / part) for part in ("query", "gallery"))
            return Trial(query, gallery, "camera")
        crops = _two_folders(_below(root, "test"))
        return Trial(crops, crops, "camera")
    if layout == "vehicles":
        folder = _below(root, "val")
        crops = _colour_only(folder)
        query = tuple(crop for crop in crops if crop.camid == 1)
        gallery = tuple(crop for crop in crops if crop.camid != 1)
        if not query or not gallery:
            raise ValueError(f"{folder}: expected pictures of camera 1 and of another")
        return Trial(query, gallery, "camera")
    raise ValueError(f"unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")


def refuse_swapped(crops: Sequence[Crop]) -> None:
    """Look at sixteen crops; the doctor looks at all.

    Raises:
        ValueError: in most, near-infrared has colours and colour has none.
    """
    some = [crop for crop in crops if crop.nir][:: max(len(crops) // 16, 1)]
    swapped = 0
    for crop in some:
        assert crop.nir  # noqa: S101 - chosen so above
        colours = channels_differ(read_picture(crop.nir)) > COLOURFUL
        swapped += colours and channels_differ(read_picture(crop.rgb)) < 1
    if some and swapped > len(some) / 2:
        raise ValueError(
            f"{some[0].rgb.path.parent}: near-infrared has colours and colour has none; "
            "the two look swapped"
        )


def channels_differ(values: NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """Mean over the pixels of largest minus smallest channel of (H, W, 3); 0 of a grey (H, W)."""
    if values.ndim == 2:
        return 0.0
    return float((values.max(axis=2).astype(int) - values.min(axis=2)).mean())


def split_identities(
    crops: Sequence[Crop], share: float
) -> tuple[tuple[Crop, ...], tuple[Crop, ...]]:
    """Keep a share of the identities, chosen by a hash of their names, out of training.

    Returns:
        Crops to train on, and those of at least two identities to validate on.

    Raises:
        ValueError: too few identities to train on any.
    """
    pids = sorted({crop.pid for crop in crops}, key=lambda p: hashlib.sha256(p.encode()).digest())
    count = max(round(share * len(pids)), 2)
    if len(pids) < count + 2:
        raise ValueError(f"{len(pids)} identities are too few to hold {count} out for validation")
    held_out = set(pids[:count])
    return (
        tuple(crop for crop in crops if crop.pid not in held_out),
        tuple(crop for crop in crops if crop.pid in held_out),
    )


def counts(crops: Iterable[Crop]) -> dict[str, int]:
    """How many `identities`, `images` and `cameras` there are."""
    crops = list(crops)
    return {
        "identities": len({crop.pid for crop in crops}),
        "images": len(crops),
        "cameras": len({crop.camid for crop in crops}),
    }


def read_pair(crop: Crop) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Both pictures of a crop, as they were taken.

    Returns:
        Colour uint8 (H, W, 3), near-infrared uint8 or uint16 (h, w); simulated where there is none.

    Raises:
        ValueError: a file cannot be decoded, or does not hold what the layout promises.
    """
    rgb = read_picture(crop.rgb)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=2)
    if rgb.dtype != np.uint8:
        raise ValueError(f"{crop.rgb.path}: expected 8-bit colour, got {rgb.dtype}")
    if crop.nir is None:
        return rgb, simulate_nir(rgb)
    nir = read_picture(crop.nir)
    if nir.ndim == 3:  # grey, stored as colour: JPEG leaves small differences
        nir = np.round(nir.mean(axis=-1)).astype(np.uint8)
    return rgb, nir


def read_picture(picture: Picture) -> NDArray[Any]:
    """Uint8 (H, W, 3), or (H, W) of 8 or 16 bits."""
    try:
        with Image.open(picture.path) as image:
            sixteen = image.mode.startswith("I;16")
            grey = sixteen or image.mode in ("L", "1")
            values = np.asarray(
                image if sixteen else image.convert("L") if grey else image.convert("RGB")
            )
    except OSError as error:
        raise ValueError(f"cannot read {picture.path}: {error}") from error
    if picture.panel is None:
        return values
    height, width = PANEL
    if values.shape[0] != height or values.shape[1] not in (2 * width, 3 * width):
        raise ValueError(
            f"{picture.path}: expected two or three panels of {width} x {height} side by side, "
            f"got {values.shape[1]} x {values.shape[0]}"
        )
    return values[:, picture.panel * width : (picture.panel + 1) * width]


def _panels(folder: Path) -> tuple[Crop, ...]:
    crops = []
    for path in _pictures(folder):
        pid, camera = _match(r"(-?\d+)_c(\d+)", path)
        if pid != "-1":  # detections of no one
            crops.append(Crop(Picture(path, 0), Picture(path, 1), pid, int(camera)))
    return tuple(crops)


def _rgbnt201(folder: Path) -> tuple[Crop, ...]:
    crops = []
    for rgb, nir in _partners(folder / "RGB", folder / "NI"):
        pid, camera = _match(r"(\d{6})_...(\d)", rgb)
        crops.append(Crop(Picture(rgb), Picture(nir), pid, int(camera)))
    return tuple(crops)


def _msvr310(folder: Path) -> tuple[Crop, ...]:
    crops = []
    for identity in _folders(folder):
        for rgb, nir in _partners(identity / "vis", identity / "ni"):
            pid, scene, camera = _match(r"(\d{4})..(\d{3})..(\d)", rgb)
            crops.append(Crop(Picture(rgb), Picture(nir), pid, int(camera), int(scene)))
    return tuple(crops)


def _two_folders(folder: Path) -> tuple[Crop, ...]:
    crops = []
    for rgb, nir in _partners(folder / "rgb", folder / "nir"):
        pid, camera = _match(r"(.+?)_c(?:am)?(\d+)", rgb)
        crops.append(Crop(Picture(rgb), Picture(nir), pid, int(camera)))
    return tuple(crops)


def _colour_only(folder: Path) -> tuple[Crop, ...]:
    crops = []
    for path in _pictures(folder):
        pid, camera = _match(r"(.+)_cam(\d+)$", path)
        crops.append(Crop(Picture(path), None, pid, int(camera)))
    return tuple(crops)


def _below(root: Path, name: str) -> Path:
    return root / name if (root / name).is_dir() else root


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no pictures")
    return paths


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    if not children:
        raise ValueError(f"{folder} holds no folder per identity")
    return children


def _partners(rgb: Path, nir: Path) -> list[tuple[Path, Path]]:
    """Pictures of equal stem in both folders."""
    by_stem = [{path.stem: path for path in _pictures(folder)} for folder in (rgb, nir)]
    for folder, mine, other in ((nir, by_stem[1], by_stem[0]), (rgb, by_stem[0], by_stem[1])):
        missing = sorted(set(other) - set(mine))
        if missing:
            shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            raise ValueError(f"{folder}: {len(missing)} pictures are missing: {shown}")
    return [(path, by_stem[1][stem]) for stem, path in by_stem[0].items()]


def _match(pattern: str, path: Path) -> tuple[str, ...]:
    found = re.match(pattern, path.stem)
    if not found:
        raise ValueError(f"{path}: the name does not match {pattern}")
    return found.groups()
