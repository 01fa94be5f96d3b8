"""Real pairs as one archive that `python -m export --judge` reads, see `export/judge.py`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from model.preprocessing import DepthConvention, prepare_depth, prepare_nir, prepare_rgb
from training.data.reid_samples import prepare_pair
from training.data.reid_sets import Trial
from training.data.rgbd_sets import TripleSet
from training.data.triples import find_partners, read_depth, read_gt

Conventions = Sequence[tuple[str, DepthConvention]]
"""Patterns of stems and what they say; the first that fits holds, `near_bright` if none does."""


def write_saliency_pairs(
    sets: Sequence[TripleSet],
    unlabelled: Sequence[Path],
    conventions: Conventions,
    size: tuple[int, int],
    out: Path,
) -> int:
    """Triples with their masks, then pairs without; answers their number.

    Args:
        sets: judged by their masks.
        unlabelled: folders of `rgb/ depth/`.
        conventions: of the depth of `unlabelled`, by stem.
        size: (height, width) in pixels, of masks too.
        out: the archive.

    Raises:
        ValueError: a folder does not fit, or there are no pairs.
    """
    height, width = size
    pairs = [(t.rgb, t.depth, t.convention) for one in sets for t in one.triples]
    masks = [
        cv2.resize(
            read_gt(triple.gt).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        > 0.5
        for one in sets
        for triple in one.triples
    ]
    for folder in unlabelled:
        for files in find_partners(folder, ("rgb", "depth")):
            fits = (kind for stem, kind in conventions if fnmatch(files["rgb"].stem, stem))
            pairs.append((files["rgb"], files["depth"], next(fits, "near_bright")))
    if not pairs:
        raise ValueError("no pairs to write")
    photos, depths = [], []
    for rgb, depth, convention in pairs:
        with Image.open(rgb) as image:
            photos.append(prepare_rgb(image, size))
        depths.append(prepare_depth(read_depth(depth), convention, size))
    arrays: dict[str, Any] = {"rgb": np.stack(photos), "aux": np.stack(depths)}
    if masks:
        arrays["gt"] = np.stack(masks)
    np.savez_compressed(out, **arrays)
    return len(pairs)


def write_reid_pairs(trial: Trial, size: tuple[int, int], out: Path) -> int:
    """Every crop of query and gallery with its identity and camera; answers their number."""
    crops = list(dict.fromkeys((*trial.query, *trial.gallery)))
    rgb, aux = zip(*(prepare_pair(crop, size) for crop in crops), strict=True)
    _, pid = np.unique([crop.pid for crop in crops], return_inverse=True)
    camid = np.array([crop.camid for crop in crops])
    np.savez_compressed(out, rgb=np.stack(rgb), aux=np.stack(aux), pid=pid, camid=camid)
    return len(crops)


def write_scene_pairs(root: Path, size: tuple[int, int], out: Path) -> int:
    """Aligned scenes, `*_rgb.jpg` and `*_nir.jpg`, without identities; answers their number.

    Raises:
        ValueError: there are none, or one has no partner.
    """
    photos, scenes = [], []
    for path in sorted(root.glob("*_rgb.jpg")):
        partner = path.with_name(path.name.replace("_rgb.jpg", "_nir.jpg"))
        if not partner.exists():
            raise ValueError(f"{path} has no {partner.name}")
        with Image.open(path) as rgb, Image.open(partner) as nir:
            photos.append(prepare_rgb(rgb, size))
            scenes.append(prepare_nir(np.asarray(nir.convert("L")), size))
    if not photos:
        raise ValueError(f"{root} holds no *_rgb.jpg")
    np.savez_compressed(out, rgb=np.stack(photos), aux=np.stack(scenes))
    return len(photos)
