"""Pictures from strangers: decode with limits, check that two make a pair, encode answers.

Everything here blocks and belongs in a worker thread. The order is always: bytes, header, limits,
pixels; no pixel is decoded before its header has been checked.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from app.errors import (
    BadPicture,
    MultipleFrames,
    NotDepth,
    NotNearInfrared,
    PairMismatch,
    PictureTooLarge,
    PictureTooSmall,
    Place,
    ServiceError,
    UnreadablePicture,
    UnsupportedPicture,
)
from model.preprocessing import as_rgb

RGB_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
GREY_FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios that `resize` still takes for the same view."""

_RGB_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_GREY_MODES = {"L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_GREY_TOLERANCE = 3  # levels; what JPEG rounding makes of three equal channels
_NPY_MAGIC = b"\x93NUMPY"

T = TypeVar("T")


class PixelBudget:
    """Pixels that the pictures of one request may have together; its threads share it."""

    def __init__(self, pixels: int) -> None:
        self._pixels = self._left = pixels
        self._lock = threading.Lock()

    def spend(self, pixels: int, place: Place) -> None:
        """Raise `PictureTooLarge` for the picture that exceeds the budget."""
        with self._lock:
            self._left -= pixels
            if self._left < 0:
                raise PictureTooLarge(
                    f"the pictures of a request may have {self._pixels} pixels together", place
                )


@dataclass(frozen=True)
class Limits:
    """What a picture may measure."""

    max_pixels: int
    min_side: int
    budget: PixelBudget | None = None
    """Shared with the other pictures of its request."""


@dataclass(frozen=True)
class Upload:
    """One file of a request, as it came."""

    data: bytes
    place: Place


@dataclass(frozen=True)
class AuxKind:
    """A kind of single-channel picture that partners colour."""

    name: str
    refusal: type[BadPicture]
    """What a picture of another kind is refused with."""
    full_range: bool
    """Whether the full range of 8 or 16 bits is the scale; if not, wider integers, floats and
    `.npy` arrays of them are taken, too."""
    without_alpha: str
    """What to send in place of transparent pixels."""


DEPTH = AuxKind(
    "depth",
    NotDepth,
    full_range=False,
    without_alpha="send depth_convention=metric with 0 where it is missing",
)
NIR = AuxKind(
    "near-infrared", NotNearInfrared, full_range=True, without_alpha="send it without alpha"
)


@dataclass(frozen=True)
class DecodedPair:
    """Two pictures of one scene, upright."""

    rgb: Image.Image
    """Mode RGB."""
    aux: NDArray[np.generic]
    """(H, W) at native precision: depth of any real dtype, near-infrared of uint8 or uint16."""
    warnings: list[str]
    """What may keep the two from showing the same view."""


def decode_pair(
    rgb: Upload, aux: Upload, kind: AuxKind, limits: Limits, *, resize: bool
) -> DecodedPair:
    """Decode both pictures, each turned as its own EXIF orientation says.

    Args:
        rgb: a file of `RGB_FORMATS`.
        aux: a file of `GREY_FORMATS`, or a `.npy` array if its kind takes one.
        kind: of `aux`.
        limits: checked before pixels are decoded.
        resize: take an `aux` of another size, if its aspect ratio agrees.

    Raises:
        BadPicture: either picture cannot be used, or they do not make a pair.
    """
    colour, rgb_orientation = _decode_rgb(rgb, limits)
    if not kind.full_range and aux.data.startswith(_NPY_MAGIC):
        values, aux_orientation = _decode_npy(aux, kind, limits), 1
    else:
        values, aux_orientation = _decode_grey(aux, kind, limits)
    _check_values(values, aux.place, kind)
    sizes = colour.size, (values.shape[1], values.shape[0])
    _check_pair(*sizes, rgb.place, aux.place, resize=resize)
    warnings = []
    if rgb_orientation != aux_orientation:
        warnings.append(
            f"only one of {rgb.place} and {aux.place} was turned upright by its EXIF orientation"
        )
    return DecodedPair(colour, values, warnings)


def decode_rgb(upload: Upload, limits: Limits) -> Image.Image:
    """The upright colour picture of a pair, mode RGB, alone; errors as in `decode_pair`."""
    picture, _ = _decode_rgb(upload, limits)
    return picture


def _decode_rgb(upload: Upload, limits: Limits) -> tuple[Image.Image, int]:
    """The upright picture, mode RGB, and the EXIF orientation that it came with."""

    def colour(image: ImageFile.ImageFile) -> tuple[Image.Image, int]:
        if image.mode.startswith("I") or image.mode == "F":
            raise UnsupportedPicture(
                f"a single channel of {image.mode} pixels is no colour picture; "
                "were the two pictures of the pair swapped?",
                upload.place,
            )
        if image.mode not in _RGB_MODES:
            raise UnsupportedPicture(f"pixel mode {image.mode} is not taken", upload.place)
        image.load()
        orientation = _orientation(image)
        upright = _upright(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return as_rgb(upright), orientation

    return _decode(upload, RGB_FORMATS, limits, colour)


def _decode_grey(upload: Upload, kind: AuxKind, limits: Limits) -> tuple[NDArray[np.generic], int]:
    """The upright channel and the EXIF orientation that it came with."""

    def grey(image: ImageFile.ImageFile) -> tuple[NDArray[np.generic], int]:
        if ";16" in _raw_mode(image) and image.mode not in _GREY_MODES:
            raise kind.refusal(
                f"16-bit {kind.name} is read from a single channel only, without alpha; "
                "this file has several, which would be cut to 8 bit",
                upload.place,
            )
        image.load()
        orientation = _orientation(image)
        return np.asarray(_single_channel(_upright(image), upload.place, kind)), orientation

    return _decode(upload, GREY_FORMATS, limits, grey, or_npy=not kind.full_range)


def _single_channel(image: Image.Image, place: Place, kind: AuxKind) -> Image.Image:
    """The one channel of a picture, unless that would need a guess."""
    if image.mode in _GREY_MODES:
        return image
    if image.mode == "1":
        raise kind.refusal(
            f"a one-bit picture has two levels, which is a mask, not {kind.name}", place
        )
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise kind.refusal(
                f"{kind.name} with transparent pixels is ambiguous; {kind.without_alpha}", place
            )
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "RGB":
        red, green, blue = image.split()
        for other in (red, blue):
            _, difference = ImageChops.difference(green, other).getextrema()
            if not isinstance(difference, int | float) or difference > _GREY_TOLERANCE:
                raise kind.refusal(
                    f"a colour picture is not {kind.name}: its channels differ by up to "
                    f"{difference} of 255; send a single channel, not a colour rendering of one",
                    place,
                )
        image = green
    if image.mode != "L":
        raise kind.refusal(f"pixel mode {image.mode} is not taken for {kind.name}", place)
    return image


def _decode_npy(upload: Upload, kind: AuxKind, limits: Limits) -> NDArray[np.generic]:
    """Read a version 1 or 2 `.npy` file; header first, never a pickle."""
    data, place = upload.data, upload.place
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)  # type: ignore[no-untyped-call]  # numpy leaves it so
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} is not taken")
        shape, fortran_order, dtype = readers[version](file)  # type: ignore[no-untyped-call]
    except Exception as error:  # the header is a Python literal of a stranger
        raise UnreadablePicture("its .npy header cannot be read", place) from error
    if dtype.kind not in "uif":
        raise kind.refusal(f"dtype {dtype} is not taken; send integers or floats", place)
    if len(shape) != 2:
        raise kind.refusal(f"expected an array of shape (H, W), got {shape}", place)
    height, width = shape
    _check_size(width, height, limits, place)
    offset, count = file.tell(), height * width
    expected, received = count * dtype.itemsize, len(data) - offset
    if expected != received:
        raise UnreadablePicture(f"{shape} of {dtype} is {expected} bytes, got {received}", place)
    values = np.frombuffer(data, dtype, count, offset)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _check_values(values: NDArray[np.generic], place: Place, kind: AuxKind) -> None:
    """Refuse values that no arithmetic below could carry, or whose full range is unknown."""
    if kind.full_range and (values.dtype.kind != "u" or values.dtype.itemsize > 2):
        raise kind.refusal(f"{kind.name} is 8- or 16-bit grey; these are {values.dtype}", place)
    if values.dtype.kind != "f":
        return
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise kind.refusal("no value is finite", place)
    largest = np.abs(finite).max()
    if largest > np.finfo(np.float32).max:
        raise kind.refusal(f"values reach {largest:.3g}, beyond 32-bit floats", place)


def _decode(
    upload: Upload,
    formats: tuple[str, ...],
    limits: Limits,
    read: Callable[[ImageFile.ImageFile], T],
    *,
    or_npy: bool = False,
) -> T:
    """Open a file, check its header, then `read` its pixels; every failure says which it is."""
    data, place = upload.data, upload.place
    if not data:
        raise UnreadablePicture("the file is empty", place)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(*image.size, limits, place)
            # An MPO is a JPEG photo with a preview or gain map behind it, as phones write them.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise MultipleFrames("send a single frame or page", place)
            return read(image)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(
            f"at most {limits.max_pixels} pixels in all are taken", place
        ) from error
    except UnidentifiedImageError as error:
        taken = ", ".join([*formats, *(["npy"] if or_npy else [])])
        raise UnreadablePicture(f"{_guess(data)}; this field takes {taken}", place) from error
    except Exception as error:  # hostile bytes raise nearly anything in a decoder
        raise UnreadablePicture(f"the file is damaged: {error}", place) from error


def _check_size(width: int, height: int, limits: Limits, place: Place) -> None:
    if min(width, height) < limits.min_side:
        raise PictureTooSmall(
            f"{width} x {height} pixels; each side needs at least {limits.min_side}", place
        )
    if width * height > limits.max_pixels:
        raise PictureTooLarge(
            f"{width} x {height} pixels; at most {limits.max_pixels} in all", place
        )
    if limits.budget is not None:
        limits.budget.spend(width * height, place)


def _check_pair(
    rgb: tuple[int, int], aux: tuple[int, int], rgb_place: Place, aux_place: Place, *, resize: bool
) -> None:
    """Compare two sizes, (width, height), after orientation."""
    if rgb == aux:
        return
    sizes = (
        f"{rgb_place} is {rgb[0]} x {rgb[1]} and {aux_place} {aux[0]} x {aux[1]} pixels "
        "once upright"
    )
    if rgb == aux[::-1]:
        sizes += "; one of them lacks the EXIF orientation of the other"
    tolerance = f"{100 * ASPECT_TOLERANCE:.0f} %"
    if abs(rgb[0] * aux[1] / (rgb[1] * aux[0]) - 1) > ASPECT_TOLERANCE:
        raise PairMismatch(
            f"{sizes}; their aspect ratios differ by more than {tolerance}", aux_place
        )
    if not resize:
        raise PairMismatch(
            f"{sizes}; resize=true takes them, as their aspect ratios agree within {tolerance}",
            aux_place,
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
    resized = np.array(Image.fromarray(saliency).resize(size, Image.Resampling.BILINEAR))
    return np.clip(resized, 0.0, 1.0, out=resized)


def encode_png(image: Image.Image) -> bytes:
    """A PNG in the image's own mode."""
    file = io.BytesIO()
    # Several times faster than the defaults; runs alone suit maps, and photos no less than level 1.
    image.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()


def encode_npy(array: NDArray[np.float32]) -> bytes:
    """A version 1 `.npy` file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
