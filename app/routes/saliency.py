"""`POST /v1/saliency`: a registered pair in, its salient object out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile

from app import problems
from app.routes.form import check_fields, hold_room, respond
from app.saliency import SaliencyPredictor
from app.schemas import SaliencyOptions, SaliencyReport
from app.service import Service

router = APIRouter(tags=["saliency"])

_FIELDS = {"rgb", "depth"}
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What `output` names; `map` unless said otherwise.",
        "model": SaliencyReport,
        "content": {
            "image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}},
            "application/x-npy": {
                "schema": {"type": "string", "contentMediaType": "application/x-npy"}
            },
        },
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in {
                "X-Model-Id": "`name@version` of the bundle that answered.",
                "X-Depth-Convention": "How depth was read, if there was any.",
                "X-Warnings": "What made this pair less useful than it could be, if anything.",
                "X-Substituted": "The picture for which zeros stood in, if any.",
                "X-Request-Id": "The client's, if it sent a sane one, or a new one.",
                "Server-Timing": "Milliseconds of each stage.",
            }.items()
        },
    }
}


@router.post(
    "/v1/saliency",
    response_class=Response,
    responses=_ANSWERED | problems.responses(400, 401, 404, 413, 422, 429, 500, 503, 504),
)
async def saliency(
    request: Request,
    rgb: Annotated[UploadFile, File(description="JPEG, PNG, WebP, BMP or TIFF.")],
    options: Annotated[SaliencyOptions, Query()],
    depth: Annotated[
        UploadFile | None,
        File(
            description="Of the same view and size: 8- or 16-bit grey PNG, TIFF, BMP or JPEG, "
            "or a `.npy` array (H, W) of integers or floats. Only a bundle whose "
            "`modality_policy` is `substitute` does without."
        ),
    ] = None,
) -> Response:
    """Find the salient object of one registered pair: same scene, same height and width.

    Pictures are turned upright by their EXIF orientation, and so is the answer.
    """
    await check_fields(request, _FIELDS)
    service: Service = request.app.state.service
    times = request.state.times
    predictor = service.predictor(SaliencyPredictor, options.model)
    hold_room(request, predictor, 1)
    depth_file = None if depth is None else await depth.read()
    answer = await predictor.saliency(await rgb.read(), depth_file, options, times)
    read = {} if answer.substituted else {"X-Depth-Convention": options.depth_convention}
    return respond(request, answer, 1, read)
