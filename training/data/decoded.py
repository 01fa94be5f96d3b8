"""Triples as arrays: decoded from their pictures, or read from where they were kept before.

A sample of 256 px from pictures of 640 x 480 costs 12 ms of a CPU, and 6 ms where its triple is
kept. Workers, epochs and later runs share what is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import normalise_depth
from training.data.triples import Triple, picture, read_depth, read_gt

FORMAT = 1
"""Of kept files; another number makes all of them anew."""


class Decoded(NamedTuple):
    """A triple of full size."""

    rgb: NDArray[np.uint8]
    """uint8 (H, W, 3)."""
    near: NDArray[np.float32]
    """float32 (H, W) in [0, 1], near = 1, missing = 0."""
    gt: NDArray[np.uint8]
    """uint8 (H, W), 0 or 255."""


def decode(triple: Triple) -> Decoded:
    """Read the three pictures.

    Raises:
        ValueError: one cannot be read, or their sizes differ; the message names it.
    """
    with picture(triple.rgb) as image:
        rgb = np.asarray(image.convert("RGB"))
    near, _ = normalise_depth(read_depth(triple.depth), triple.convention)
    gt = read_gt(triple.gt).astype(np.uint8) * 255
    if not rgb.shape[:2] == near.shape == gt.shape:
        raise ValueError(
            f"{triple.rgb.stem}: rgb {rgb.shape[:2]}, depth {near.shape}, gt {gt.shape}"
        )
    return Decoded(rgb, near, gt)


def decode_once(triple: Triple, folder: Path) -> Decoded:
    """What `decode` answers, kept in `folder` at 8 bytes a pixel.

    A file that changed, by its size or time, or depth that is read otherwise, is decoded anew; the
    old arrays stay until the folder is deleted. Errors as in `decode`.
    """
    path = folder / f"{_key(triple)}.npy"
    if not path.is_file():
        decoded = decode(triple)
        H, W = decoded.gt.shape
        columns = (decoded.rgb.reshape(H, -1), decoded.near.view(np.uint8), decoded.gt)
        _write(path, np.concatenate(columns, axis=1))
        return decoded
    rows = np.load(path, allow_pickle=False)  # a row holds 3 W, 4 W and W bytes
    H, W = rows.shape[0], rows.shape[1] // 8
    rgb, near, gt = (np.ascontiguousarray(x) for x in np.split(rows, (3 * W, 7 * W), axis=1))
    return Decoded(rgb.reshape(H, W, 3), near.view(np.float32), gt)


def _key(triple: Triple) -> str:
    files = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (triple.rgb, triple.depth, triple.gt)
    ]
    facts = json.dumps((FORMAT, triple.convention, files))
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _write(path: Path, values: NDArray[np.uint8]) -> None:
    """Whole or not at all: other workers read, and perhaps write the same, meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.save(file, values)
    Path(temporary).replace(path)
