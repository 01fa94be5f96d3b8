"""Pairs of colour and near-infrared crops in, embeddings or ranks out; see `app.predictor`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from app.doubts import doubt_aux, doubt_rgb
from app.errors import BadRequest, ModelMismatch, Place
from app.images import NIR, Limits, Upload, decode_pair, decode_rgb
from app.predictor import Answer, Predictor, in_order
from app.schemas import (
    EmbeddingOptions,
    EmbeddingReport,
    Encoding,
    Match,
    QueryRanking,
    SimilarityOptions,
    SimilarityReport,
)
from app.telemetry import StageTimes
from model.preprocessing import prepare_nir, prepare_rgb

MAX_PAIRS = 64
"""Most pairs of one request; of a similarity request, queries and gallery together."""
Pair = tuple[Upload, Upload | None]
"""Colour and near-infrared, or none of that."""
Vectors = NDArray[np.float32]
"""(B, D), unit length."""


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network takes it; the pictures themselves are gone."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    aux: NDArray[np.float32]
    """(H, W, 1) in [0, 1]."""
    warnings: list[str]


def pair_up(rgb: Sequence[bytes], nir: Sequence[bytes], fields: tuple[str, str]) -> list[Pair]:
    """The i-th file of one field with the i-th of the other, or with none if there is no other.

    Raises:
        BadRequest: the fields hold different numbers of files.
    """
    if not nir:
        return [(Upload(colour, Place(fields[0], index)), None) for index, colour in enumerate(rgb)]
    if len(rgb) != len(nir):
        shorter = fields[0] if len(rgb) < len(nir) else fields[1]
        raise BadRequest(
            f"{len(rgb)} pictures in {fields[0]} and {len(nir)} in {fields[1]}; "
            "each needs its partner, in the same order",
            field=shorter,
            index=min(len(rgb), len(nir)),
        )
    return [
        (Upload(colour, Place(fields[0], index)), Upload(grey, Place(fields[1], index)))
        for index, (colour, grey) in enumerate(zip(rgb, nir, strict=True))
    ]


class ReIDPredictor(Predictor):
    """Serves one re-identification bundle."""

    task: ClassVar[Literal["saliency", "reid"]] = "reid"

    def expect(self, model_id: str | None) -> None:
        """Raise `ModelMismatch` unless `model_id` is this bundle's, or none."""
        mine = self.bundle.manifest.model_id
        if model_id not in (None, mine):
            raise ModelMismatch(
                f"expected {model_id!r}, but {mine!r} would answer; "
                "embeddings of two models do not compare",
                field="expect_model",
            )

    async def embeddings(
        self, pairs: Sequence[Pair], options: EmbeddingOptions, times: StageTimes
    ) -> Answer:
        """Answer the embedding of each pair, in order.

        Raises:
            BadPicture: a picture cannot be used; of several, the first is named.
            BadRequest: there is no near-infrared, and the bundle does not do without.
            InferenceFailed: the runtime failed.
        """
        vectors, warnings = await self._embed(pairs, times, resize=options.resize)
        substituted = "nir" if pairs[0][1] is None else None
        return await self._write(
            partial(self._describe, vectors, warnings, options.encoding, substituted),
            warnings,
            times,
            substituted,
        )

    async def similarity(
        self,
        queries: Sequence[Pair],
        gallery: Sequence[Pair],
        options: SimilarityOptions,
        times: StageTimes,
    ) -> Answer:
        """Rank the gallery for each query; errors as in `embeddings`."""
        vectors, warnings = await self._embed([*queries, *gallery], times, resize=options.resize)
        split = vectors[: len(queries)], vectors[len(queries) :]
        return await self._write(
            partial(self._compare, *split, warnings, options.top_k), warnings, times
        )

    async def _embed(
        self, pairs: Sequence[Pair], times: StageTimes, *, resize: bool
    ) -> tuple[Vectors, list[str]]:
        """Embed every pair, each in whatever batch it gets into; the answers are in order."""
        limits = self._request_limits()

        async def embed(pair: Pair) -> tuple[Vectors, list[str]]:
            prepared = await self._in_decode_thread(
                partial(self._prepare, *pair, resize, limits, times), times
            )
            return await self._infer(prepared.rgb, prepared.aux, times), prepared.warnings

        answers = await in_order(embed(pair) for pair in pairs)
        vectors = np.stack([row for row, _ in answers])
        return vectors, [warning for _, warnings in answers for warning in warnings]

    def _prepare(
        self, colour: Upload, grey: Upload | None, resize: bool, limits: Limits, times: StageTimes
    ) -> PreparedPair:
        size = self.bundle.manifest.input_size
        if grey is None:
            aux = self.stand_in("nir")
            with times.stage("decode"):
                picture = decode_rgb(colour, limits)
            with times.stage("preprocess"):
                rgb = prepare_rgb(picture, size)
            return PreparedPair(rgb, aux, doubt_rgb(rgb, colour.place))
        with times.stage("decode"):
            pair = decode_pair(colour, grey, NIR, limits, resize=resize)
        with times.stage("preprocess"):
            rgb, aux = prepare_rgb(pair.rgb, size), prepare_nir(pair.aux, size)
            doubts = doubt_rgb(rgb, colour.place) + doubt_aux(aux, grey.place)
        return PreparedPair(rgb, aux, pair.warnings + doubts)

    async def _write(
        self,
        report: Callable[[dict[str, float]], BaseModel],
        warnings: list[str],
        times: StageTimes,
        substituted: str | None = None,
    ) -> Answer:
        def write() -> bytes:
            timings_ms = times.milliseconds()
            with times.stage("encode"):
                return report(timings_ms).model_dump_json().encode()

        body = await self._in_encode_thread(write)
        model_id = self.bundle.manifest.model_id
        return Answer(body, "application/json", model_id, warnings, substituted)

    def _describe(
        self,
        vectors: Vectors,
        warnings: list[str],
        encoding: Encoding,
        substituted: str | None,
        timings_ms: dict[str, float],
    ) -> EmbeddingReport:
        manifest = self.bundle.manifest
        return EmbeddingReport(
            model_id=manifest.model_id,
            preprocess_id=manifest.preprocessing.preprocess_id,
            dim=vectors.shape[1],
            modalities=["rgb", "nir"] if substituted is None else ["rgb"],
            encoding=encoding,
            embeddings=_as_base64(vectors) if encoding == "base64" else _as_floats(vectors),
            warnings=warnings,
            timings_ms=timings_ms,
        )

    def _compare(
        self,
        queries: Vectors,
        gallery: Vectors,
        warnings: list[str],
        top_k: int | None,
        timings_ms: dict[str, float],
    ) -> SimilarityReport:
        manifest = self.bundle.manifest
        return SimilarityReport(
            model_id=manifest.model_id,
            preprocess_id=manifest.preprocessing.preprocess_id,
            dim=queries.shape[1],
            queries=rank(queries, gallery, top_k),
            warnings=warnings,
            timings_ms=timings_ms,
        )


def rank(queries: Vectors, gallery: Vectors, top_k: int | None) -> list[QueryRanking]:
    """The gallery by falling cosine, for each query; equals keep their order.

    Args:
        queries: (Q, D), unit length.
        gallery: (G, D), unit length.
        top_k: how many of the gallery; none: all.
    """
    cosines = np.clip(queries.astype(np.float64) @ gallery.T.astype(np.float64), -1, 1)
    return [
        QueryRanking(
            query=query,
            matches=[
                Match(gallery=int(index), similarity=float(row[index]))
                for index in np.argsort(-row, kind="stable")[:top_k]
            ],
        )
        for query, row in enumerate(cosines)
    ]


def _as_floats(vectors: Vectors) -> list[list[float]]:
    """Shortest decimals that read back as the same float32: half as long as those of a float64."""
    return [[float(str(value)) for value in row] for row in vectors]


def _as_base64(vectors: Vectors) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
