"""What comes back, as NumPy arrays, Pillow images and plain values."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Box:
    """An upright rectangle, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SaliencyReport:
    """What `output="json"` says about a map."""

    mean: float
    """In [0, 1]."""
    max: float
    """In [0, 1]."""
    area: float
    """Share of pixels at or above the threshold, in [0, 1]."""
    threshold: float
    bounding_box: Box | None
    """Of those pixels; none if there are none."""
    mask: NDArray[np.bool_]
    """(H, W): those pixels."""


@dataclass(frozen=True)
class Saliency:
    """One answer about one pair."""

    content: bytes
    """The file as it came."""
    media_type: str
    model_id: str
    depth_convention: str
    warnings: list[str]
    """What made this pair less useful than it could be."""
    timings_ms: dict[str, float]
    """How long each stage took in the service."""
    request_id: str
    substituted: str | None = None
    """The picture that was not sent and for which zeros stood in."""

    @cached_property
    def image(self) -> Image.Image:
        """The answer as a picture; a map of floats in 8 bits."""
        if self.media_type == "image/png":
            return _open_png(self.content)
        if self.media_type == "application/json":
            return _open_png(base64.b64decode(self._json["map_png_base64"]))
        return Image.fromarray(np.rint(self.array * 255).astype(np.uint8))

    @cached_property
    def array(self) -> NDArray[np.float32]:
        """The map or mask: (H, W) in [0, 1].

        Raises:
            ValueError: `cutout` and `overlay` hold no map; take their `image`.
        """
        if self.media_type == "application/x-npy":
            values: NDArray[np.float32] = np.load(io.BytesIO(self.content), allow_pickle=False)
            return values
        pixels = np.asarray(self.image)
        if pixels.ndim != 2:
            raise ValueError(f"a picture of mode {self.image.mode} holds no map; take its `image`")
        return (pixels / np.float32(255 if pixels.dtype == np.uint8 else 65535)).astype(np.float32)

    @cached_property
    def report(self) -> SaliencyReport:
        """Statistics, bounding box and mask.

        Raises:
            ValueError: the answer is a picture; ask with `output="json"`.
        """
        if self.media_type != "application/json":
            raise ValueError(f'{self.media_type} holds no report; ask with output="json"')
        found = self._json
        box = found["bounding_box"]
        height, width = found["rle"]["size"]
        counts = found["rle"]["counts"]
        runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return SaliencyReport(
            mean=found["mean"],
            max=found["max"],
            area=found["area"],
            threshold=found["threshold"],
            bounding_box=None if box is None else Box(**box),
            mask=runs.reshape(width, height).T,
        )

    def save(self, path: str | Path) -> None:
        """Write the file as it came."""
        Path(path).write_bytes(self.content)

    @cached_property
    def _json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.content)
        return found


@dataclass(frozen=True)
class Embeddings:
    """One row for each pair, in order."""

    vectors: NDArray[np.float32]
    """(N, D), unit length: a dot product is a cosine."""
    model_id: str
    """Embeddings of two models do not compare; see `expect_model`."""
    preprocess_id: str
    warnings: list[str]


@dataclass(frozen=True)
class Match:
    """One pair of the gallery, seen from a query."""

    gallery: int
    """Counted from 0."""
    similarity: float
    """Cosine, in [-1, 1]."""


@dataclass(frozen=True)
class Similarity:
    """The gallery as each query ranks it."""

    matches: list[list[Match]]
    """For each query, the most similar first."""
    model_id: str
    warnings: list[str]


@dataclass(frozen=True)
class Model:
    """One bundle that the service runs."""

    name: str
    model_id: str
    task: str
    default: bool
    """Whether it answers requests of its task that name no model."""
    runtime: str
    device: str
    input_size: tuple[int, int]
    """(height, width)."""
    manifest: dict[str, Any]
    parity: dict[str, Any]


def saliency(response: httpx.Response) -> Saliency:
    """From `POST /v1/saliency`."""
    headers = response.headers
    answer = Saliency(
        content=response.content,
        media_type=headers["Content-Type"].partition(";")[0].strip(),
        model_id=headers["X-Model-Id"],
        depth_convention=headers["X-Depth-Convention"],
        warnings=[text for text in headers.get("X-Warnings", "").split("; ") if text],
        timings_ms=_timings(headers.get("Server-Timing", "")),
        request_id=headers.get("X-Request-Id", ""),
        substituted=headers.get("X-Substituted"),
    )
    if answer.media_type not in ("image/png", "application/x-npy", "application/json"):
        raise ValueError(answer.media_type)
    return answer


def embeddings(response: httpx.Response) -> Embeddings:
    """From `POST /v1/reid/embeddings?encoding=base64`."""
    found = json.loads(response.content)
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in found["embeddings"]]
    return Embeddings(
        vectors=np.stack(rows).astype(np.float32),
        model_id=found["model_id"],
        preprocess_id=found["preprocess_id"],
        warnings=found["warnings"],
    )


def similarity(response: httpx.Response) -> Similarity:
    """From `POST /v1/reid/similarity`."""
    found = json.loads(response.content)
    return Similarity(
        matches=[
            [Match(match["gallery"], match["similarity"]) for match in query["matches"]]
            for query in found["queries"]
        ],
        model_id=found["model_id"],
        warnings=found["warnings"],
    )


def models(response: httpx.Response) -> list[Model]:
    """From `GET /v1/models`."""
    return [
        Model(
            name=found["name"],
            model_id=found["model_id"],
            task=found["manifest"]["task"],
            default=found["default"],
            runtime=found["runtime"],
            device=found["device"],
            input_size=tuple(found["manifest"]["input_size"]),
            manifest=found["manifest"],
            parity=found["parity"],
        )
        for found in json.loads(response.content)["models"]
    ]


def _timings(header: str) -> dict[str, float]:
    """Milliseconds of each stage, from `decode;dur=1.2, infer;dur=3;desc="batch of 8"`."""
    times = {}
    for part in header.split(", "):
        name, *parameters = part.split(";")
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key == "dur":
                times[name] = float(value)
    return times


def _open_png(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        return image
