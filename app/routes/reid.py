"""`POST /v1/reid/...`: pairs of colour and near-infrared crops in, embeddings or ranks out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile

from app import problems
from app.errors import BadRequest
from app.reid import MAX_PAIRS, ReIDPredictor, pair_up
from app.routes.form import check_fields, hold_room, respond
from app.schemas import EmbeddingOptions, EmbeddingReport, SimilarityOptions, SimilarityReport
from app.service import Service

# Twice what is taken, so that the refusal of too many names the field.
router = APIRouter(tags=["re-identification"], form_limits={"max_files": 4 * MAX_PAIRS})

_RGB = "JPEG, PNG, WebP, BMP or TIFF; {} crops, one file each."
_NIR = (
    "The near-infrared partner of each, in the same order and of the same view and size: 8- or "
    "16-bit grey PNG, TIFF, BMP or JPEG, read by its full range."
)
_OPTIONAL = " Only a bundle whose `modality_policy` is `substitute` does without."
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in {
                "X-Model-Id": "`name@version` of the bundle that answered.",
                "X-Warnings": "The first of the `warnings`, if there are any.",
                "X-Substituted": "The picture for which zeros stood in, if any.",
                "X-Request-Id": "The client's, if it sent a sane one, or a new one.",
                "Server-Timing": "Milliseconds of each stage; batches of pairs add up.",
            }.items()
        },
    }
}
_RESPONSES = _ANSWERED | problems.responses(400, 401, 404, 409, 413, 422, 429, 500, 503, 504)


@router.post("/v1/reid/embeddings", response_model=EmbeddingReport, responses=_RESPONSES)
async def embeddings(
    request: Request,
    rgb: Annotated[list[UploadFile], File(description=_RGB.format(f"1 to {MAX_PAIRS}"))],
    options: Annotated[EmbeddingOptions, Query()],
    nir: Annotated[list[UploadFile], File(description=_NIR + _OPTIONAL)] = [],  # noqa: B006
) -> Response:
    """Turn up to 64 pairs into embeddings of unit length; the more alike, the likelier the same.

    An embedding does not depend on the pairs beside it.
    """
    await check_fields(request, {"rgb", "nir"}, several=True)
    _check_number(len(rgb), "rgb", "pairs")
    predictor = _predictor(request, options.model, options.expect_model, len(rgb))
    pairs = pair_up(await _read(rgb), await _read(nir), ("rgb", "nir"))
    answer = await predictor.embeddings(pairs, options, request.state.times)
    return respond(request, answer, len(pairs))


@router.post("/v1/reid/similarity", response_model=SimilarityReport, responses=_RESPONSES)
async def similarity(
    request: Request,
    query_rgb: Annotated[list[UploadFile], File(description=_RGB.format("the query"))],
    query_nir: Annotated[list[UploadFile], File(description=_NIR)],
    gallery_rgb: Annotated[list[UploadFile], File(description=_RGB.format("the gallery's"))],
    gallery_nir: Annotated[list[UploadFile], File(description=_NIR)],
    options: Annotated[SimilarityOptions, Query()],
) -> Response:
    """Rank gallery pairs by their cosine with each query pair; at most 64 pairs in all."""
    fields = {"query_rgb", "query_nir", "gallery_rgb", "gallery_nir"}
    await check_fields(request, fields, several=True)
    number = len(query_rgb) + len(gallery_rgb)
    _check_number(number, "gallery_rgb", "pairs, queries and gallery together")
    predictor = _predictor(request, options.model, options.expect_model, number)
    queries = pair_up(await _read(query_rgb), await _read(query_nir), ("query_rgb", "query_nir"))
    gallery = pair_up(
        await _read(gallery_rgb), await _read(gallery_nir), ("gallery_rgb", "gallery_nir")
    )
    answer = await predictor.similarity(queries, gallery, options, request.state.times)
    return respond(request, answer, number)


def _check_number(number: int, field: str, what: str) -> None:
    if number > MAX_PAIRS:
        raise BadRequest(f"{number} {what}; at most {MAX_PAIRS} are taken", field=field)


def _predictor(
    request: Request, model: str | None, expected: str | None, pairs: int
) -> ReIDPredictor:
    service: Service = request.app.state.service
    predictor = service.predictor(ReIDPredictor, model)
    predictor.expect(expected)
    hold_room(request, predictor, pairs)
    return predictor


async def _read(files: list[UploadFile]) -> list[bytes]:
    return [await file.read() for file in files]
