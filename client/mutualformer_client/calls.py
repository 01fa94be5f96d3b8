"""Each question to the service, as the `Call` that asks it; what clients share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

import numpy as np

from mutualformer_client import answers
from mutualformer_client.answers import Embeddings, Model, Saliency, Similarity
from mutualformer_client.errors import UnexpectedAnswer
from mutualformer_client.exchange import Call, Part
from mutualformer_client.pictures import Pair, Picture, encode

T = TypeVar("T")

MAX_PAIRS = 64
"""Most pairs of one request."""
MAX_REQUEST_BYTES = 16 * 2**20
"""Of the pictures of one request where several would do; half of a service's default."""


class SaliencyOptions(TypedDict, total=False):
    """See the service's `/docs`; what is left out, the service decides."""

    output: Literal["map", "map16", "mask", "cutout", "overlay", "npy", "json"]
    depth_convention: Literal["near_bright", "near_dark", "metric"]
    size: Literal["original", "model"]
    threshold: float
    resize: bool
    model: str


class EmbeddingOptions(TypedDict, total=False):
    """See the service's `/docs`; what is left out, the service decides."""

    model: str
    expect_model: str
    resize: bool


class SimilarityOptions(EmbeddingOptions, total=False):
    """See the service's `/docs`; what is left out, the service decides."""

    top_k: int


Ask = Callable[[], Call[T]]
"""Reads and encodes pictures, so it blocks."""


def saliency(rgb: Picture, depth: Picture | None, options: SaliencyOptions) -> Call[Saliency]:
    """Ask about one pair; blocks."""
    params = _params(options, SaliencyOptions)
    files = _parts("rgb", [encode(rgb)])
    if depth is not None:
        files += _parts("depth", [encode(depth)])
    return Call("POST", "/v1/saliency", answers.saliency, params, files)


def saliency_many(pairs: Iterable[Pair], options: SaliencyOptions) -> Iterator[Ask[Saliency]]:
    """Ask about each pair."""
    return (partial(saliency, rgb, depth, options) for rgb, depth in pairs)


def embeddings(pairs: Iterable[Pair], options: EmbeddingOptions) -> Iterator[Ask[Embeddings]]:
    """Ask about as many pairs at once as a request takes; see `merge`."""
    params = {**_params(options, EmbeddingOptions), "encoding": "base64"}
    rgb: list[bytes] = []
    nir: list[bytes] = []
    size = first = 0

    def ask() -> Ask[Embeddings]:
        files = [*_parts("rgb", rgb), *_parts("nir", nir)]
        call = Call("POST", "/v1/reid/embeddings", answers.embeddings, params, files, first)
        return lambda: call

    for colour, grey in pairs:
        files = encode(colour), encode(grey)
        more = sum(map(len, files))
        if rgb and (len(rgb) == MAX_PAIRS or size + more > MAX_REQUEST_BYTES):
            yield ask()
            first += len(rgb)
            rgb, nir, size = [], [], 0
        rgb.append(files[0])
        nir.append(files[1])
        size += more
    if not rgb:
        raise ValueError("no pair to embed")
    yield ask()


def merge(parts: Sequence[Embeddings]) -> Embeddings:
    """The answers to the requests of `embeddings`, in order, as one.

    Raises:
        UnexpectedAnswer: they come from different models.
    """
    models = sorted({part.model_id for part in parts})
    if len(models) > 1:
        raise UnexpectedAnswer(f"{' and '.join(models)} answered; their embeddings do not compare")
    return replace(
        parts[0],
        vectors=np.concatenate([part.vectors for part in parts]),
        warnings=[warning for part in parts for warning in part.warnings],
    )


def similarity(
    queries: Iterable[Pair], gallery: Iterable[Pair], options: SimilarityOptions
) -> Call[Similarity]:
    """Ask for the gallery as each query ranks it; blocks."""
    params = _params(options, SimilarityOptions)
    files = []
    for side, pairs in (("query", queries), ("gallery", gallery)):
        encoded = [(encode(rgb), encode(nir)) for rgb, nir in pairs]
        files += _parts(f"{side}_rgb", [rgb for rgb, _ in encoded])
        files += _parts(f"{side}_nir", [nir for _, nir in encoded])
    return Call("POST", "/v1/reid/similarity", answers.similarity, params, files)


def models() -> Call[list[Model]]:
    """Ask what is served."""
    return Call("GET", "/v1/models", answers.models)


def _params(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """Options as a query.

    Raises:
        TypeError: an option that there is not; without this the service would say so.
    """
    unknown = sorted(set(options) - set(get_type_hints(known)))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}")
    return {name: value for name, value in options.items() if value is not None}


def _parts(field: str, files: Sequence[bytes]) -> list[Part]:
    return [
        (field, (f"{index}", data, "application/octet-stream")) for index, data in enumerate(files)
    ]
