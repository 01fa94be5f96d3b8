"""Whatever holds a picture -> the bytes of a file that the service takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Picture = str | Path | bytes | Image.Image | NDArray[Any]
"""A file by its path, a file as bytes, a Pillow image or a NumPy array.

Colour arrays are uint8 (H, W, 3), RGB. Depth and near-infrared arrays are (H, W): uint8, uint16,
and for depth any other integers or floats, where NaN is missing.
"""
Pair = tuple[Picture, Picture]
"""The colour picture and its partner."""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def encode(picture: Picture) -> bytes:
    """Read or write one file; arrays and images lose nothing.

    Raises:
        ValueError: an array of a shape or dtype that no picture has.
        OSError: the file cannot be read.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    if isinstance(picture, Image.Image):
        return _encode_image(picture)
    return _encode_array(np.asarray(picture))


def _encode_image(image: Image.Image) -> bytes:
    upright = ImageOps.exif_transpose(image)  # a PNG would lose how it was held
    if upright.mode in _PNG_MODES:
        return _png(upright)
    if upright.mode.startswith("I;16"):
        return _encode_array(np.asarray(upright).astype(np.uint16))
    if upright.mode in ("I", "F"):
        return _npy(np.asarray(upright))
    return _png(upright.convert("RGB"))


def _encode_array(array: NDArray[Any]) -> bytes:
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
        return _png(Image.fromarray(array))
    if array.ndim == 2 and array.dtype in (np.uint8, np.uint16):
        return _png(Image.fromarray(array.astype(array.dtype.newbyteorder("="))))
    if array.ndim == 2 and array.dtype.kind in "uif":
        return _npy(array)
    raise ValueError(
        f"expected uint8 (H, W, 3) in colour, or numbers (H, W) of one channel, "
        f"got {array.dtype} {array.shape}"
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
