"""Pictures from strangers: decode with limits, check that two make a pair, encode answers.

Everything here blocks and belongs in a worker thread. The order is always: bytes, header, limits,
pixels; no pixel is decoded before its header has been checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from app.errors import (
    MultipleFrames,
    NotDepth,
    PairMismatch,
    PictureTooLarge,
    PictureTooSmall,
    ServiceError,
    UnreadablePicture,
    UnsupportedPicture,
)

RGB_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
DEPTH_FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios that `resize` still takes for the same view."""

_RGB_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_DEPTH_MODES = {"L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_GREY_TOLERANCE = 3  # levels; what JPEG rounding makes of three equal channels
_NPY_MAGIC = b"\x93NUMPY"

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a picture may measure."""

    max_pixels: int
    min_side: int


@dataclass(frozen=True)
class DecodedPair:
    """Two pictures of one scene, upright."""

    rgb: Image.Image
    """Mode RGB."""
    depth: NDArray[np.generic]
    """(H, W) at native precision, any real dtype."""
    warnings: list[str]
    """What may keep the two from showing the same view."""


def decode_pair(rgb: bytes, depth: bytes, limits: Limits, *, resize: bool) -> DecodedPair:
    """Decode both pictures, each turned as its own EXIF orientation says.

    Args:
        rgb: a file of `RGB_FORMATS`.
        depth: a file of `DEPTH_FORMATS`, or a `.npy` array.
        limits: checked before pixels are decoded.
        resize: take a depth map of another size, if its aspect ratio agrees.

    Raises:
        BadPicture: either picture cannot be used, or they do not make a pair.
    """
    colour, rgb_orientation = _decode_rgb(rgb, limits)
    if depth.startswith(_NPY_MAGIC):
        values, depth_orientation = _decode_npy(depth, limits), 1
    else:
        values, depth_orientation = _decode_depth(depth, limits)
    _check_pair(colour.size, (values.shape[1], values.shape[0]), resize=resize)
    warnings = []
    if rgb_orientation != depth_orientation:
        warnings.append("only one picture of the pair was turned upright by its EXIF orientation")
    return DecodedPair(colour, values, warnings)


def _decode_rgb(data: bytes, limits: Limits) -> tuple[Image.Image, int]:
    """The upright picture, mode RGB, and the EXIF orientation that it came with."""

    def colour(image: ImageFile.ImageFile) -> tuple[Image.Image, int]:
        if image.mode.startswith("I") or image.mode == "F":
            raise UnsupportedPicture(
                f"a single channel of {image.mode} pixels is no colour picture; "
                "was the depth map sent as rgb?",
                field="rgb",
            )
        if image.mode not in _RGB_MODES:
            raise UnsupportedPicture(f"pixel mode {image.mode} is not taken", field="rgb")
        image.load()
        orientation = _orientation(image)
        upright = _upright(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return upright.convert("RGB"), orientation

    return _decode(data, RGB_FORMATS, limits, "rgb", colour)


def _decode_depth(data: bytes, limits: Limits) -> tuple[NDArray[np.generic], int]:
    """The upright map and the EXIF orientation that it came with."""

    def grey(image: ImageFile.ImageFile) -> tuple[NDArray[np.generic], int]:
        if ";16" in _raw_mode(image) and image.mode not in _DEPTH_MODES:
            raise NotDepth(
                "16-bit depth is read from a single channel only, without alpha; "
                "this file has several, which would be cut to 8 bit",
                field="depth",
            )
        image.load()
        orientation = _orientation(image)
        return np.asarray(_single_channel(_upright(image))), orientation

    values, orientation = _decode(data, DEPTH_FORMATS, limits, "depth", grey)
    return _check_depth(values), orientation


def _single_channel(image: Image.Image) -> Image.Image:
    """The depth channel of a picture, unless that would need a guess."""
    if image.mode in _DEPTH_MODES:
        return image
    if image.mode == "1":
        raise NotDepth(
            "a one-bit picture has two levels, which is a mask, not depth", field="depth"
        )
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise NotDepth(
                "depth with transparent pixels is ambiguous; send depth_convention=metric "
                "with 0 where it is missing",
                field="depth",
            )
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "RGB":
        red, green, blue = image.split()
        for other in (red, blue):
            _, difference = ImageChops.difference(green, other).getextrema()
            if not isinstance(difference, int | float) or difference > _GREY_TOLERANCE:
                raise NotDepth(
                    "a colour picture is not depth: its channels differ by up to "
                    f"{difference} of 255; send a single-channel map, not a colour rendering "
                    "of one",
                    field="depth",
                )
        image = green
    if image.mode != "L":
        raise NotDepth(f"pixel mode {image.mode} is not taken for depth", field="depth")
    return image


def _decode_npy(data: bytes, limits: Limits) -> NDArray[np.generic]:
    """Read a version 1 or 2 `.npy` file; header first, never a pickle."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)  # type: ignore[no-untyped-call]  # numpy leaves it so
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} is not taken")
        shape, fortran_order, dtype = readers[version](file)  # type: ignore[no-untyped-call]
    except Exception as error:  # the header is a Python literal of a stranger
        raise UnreadablePicture("its .npy header cannot be read", field="depth") from error
    if dtype.kind not in "uif":
        raise NotDepth(f"dtype {dtype} is not taken; send integers or floats", field="depth")
    if len(shape) != 2:
        raise NotDepth(f"expected an array of shape (H, W), got {shape}", field="depth")
    height, width = shape
    _check_size(width, height, limits, "depth")
    offset, count = file.tell(), height * width
    expected, received = count * dtype.itemsize, len(data) - offset
    if expected != received:
        raise UnreadablePicture(
            f"{shape} of {dtype} is {expected} bytes, got {received}", field="depth"
        )
    values = np.frombuffer(data, dtype, count, offset)
    return _check_depth(values.reshape(shape, order="F" if fortran_order else "C"))


def _check_depth(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Refuse values that no arithmetic below could carry."""
    if values.dtype.kind != "f":
        return values
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise NotDepth("no value is finite", field="depth")
    largest = np.abs(finite).max()
    if largest > np.finfo(np.float32).max:
        raise NotDepth(f"values reach {largest:.3g}, beyond 32-bit floats", field="depth")
    return values


def _decode(
    data: bytes,
    formats: tuple[str, ...],
    limits: Limits,
    field: str,
    read: Callable[[ImageFile.ImageFile], T],
) -> T:
    """Open `data`, check its header, then `read` its pixels; every failure names `field`."""
    if not data:
        raise UnreadablePicture("the file is empty", field=field)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(*image.size, limits, field)
            # An MPO is a JPEG photo with a preview or gain map behind it, as phones write them.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise MultipleFrames("send a single frame or page", field=field)
            return read(image)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(
            f"at most {limits.max_pixels} pixels in all are taken", field=field
        ) from error
    except UnidentifiedImageError as error:
        taken = ", ".join([*formats, *(["npy"] if field == "depth" else [])])
        raise UnreadablePicture(f"{_guess(data)}; this field takes {taken}", field=field) from error
    except Exception as error:  # hostile bytes raise nearly anything in a decoder
        raise UnreadablePicture(f"the file is damaged: {error}", field=field) from error


def _check_size(width: int, height: int, limits: Limits, field: str) -> None:
    if min(width, height) < limits.min_side:
        raise PictureTooSmall(
            f"{width} x {height} pixels; each side needs at least {limits.min_side}", field=field
        )
    if width * height > limits.max_pixels:
        raise PictureTooLarge(
            f"{width} x {height} pixels; at most {limits.max_pixels} in all", field=field
        )


def _check_pair(rgb: tuple[int, int], depth: tuple[int, int], *, resize: bool) -> None:
    """Compare two sizes, (width, height), after orientation."""
    if rgb == depth:
        return
    sizes = f"rgb is {rgb[0]} x {rgb[1]} and depth {depth[0]} x {depth[1]} pixels once upright"
    if rgb == depth[::-1]:
        sizes += "; one of them lacks the EXIF orientation of the other"
    if not resize:
        raise PairMismatch(f"{sizes}; resize=true takes any equal aspect ratio", field="depth")
    if abs(rgb[0] * depth[1] / (rgb[1] * depth[0]) - 1) > ASPECT_TOLERANCE:
        raise PairMismatch(
            f"{sizes}; their aspect ratios differ by more than {ASPECT_TOLERANCE:.0%}",
            field="depth",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is none or it is not sane."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF orientation; TIFF pictures already did when they loaded."""
    if _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How pixels lie in the file, e.g. `RGB;16B`, which an 8-bit mode hides."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _guess(data: bytes) -> str:
    """Name what arrived instead of a picture."""
    if data.startswith(b"GIF8"):
        return "GIF is not taken"
    if data[4:8] == b"ftyp":
        return "HEIC and AVIF are not taken"
    if data.lstrip()[:5].lower() in (b"<?xml", b"<svg "):
        return "SVG is not taken"
    if data.startswith(_NPY_MAGIC):
        return "npy is not taken"
    return "this is not a picture"


def upscale(saliency: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map in [0, 1] to (width, height)."""
    resized = Image.fromarray(saliency).resize(size, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized), 0.0, 1.0)


def encode_png(image: Image.Image) -> bytes:
    """A PNG in the image's own mode."""
    file = io.BytesIO()
    # Level 1 is several times faster than the default, for files about a tenth larger.
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_npy(array: NDArray[np.float32]) -> bytes:
    """A version 1 `.npy` file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
