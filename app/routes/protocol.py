"""`/v2`: the Open Inference Protocol, raw tensors in and out, on the same batches as pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from app import problems, protocol
from app.errors import UnknownModel
from app.predictor import Predictor
from app.routes.form import hold_room
from app.schemas import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from app.service import Service

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_JSON_SIZE = "Inference-Header-Content-Length"
_SCHEMA = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
DEFINITIONS: dict[str, Any] = _SCHEMA.pop("$defs")
"""What the description of the body refers to."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"With `{_JSON_SIZE}`, tensors of `binary_data_size` bytes follow the JSON.",
        "content": {"application/json": {"schema": _SCHEMA}},
    }
}


@router.get("")
async def server(request: Request) -> ServerMetadata:
    """What answers here."""
    return ServerMetadata(name=request.app.title, version=request.app.version)


@router.get("/health/live")
async def live() -> ServerLive:
    """As `/livez`."""
    return ServerLive()


@router.get("/health/ready", responses=problems.responses(503))
async def ready(request: Request) -> ServerReady:
    """As `/readyz`."""
    service: Service = request.app.state.service
    service.check_ready()
    return ServerReady()


@router.get("/models/{name}/ready", responses=problems.responses(401, 404, 503))
@router.get("/models/{name}/versions/{version}/ready", responses=problems.responses(401, 404, 503))
async def model_ready(request: Request, name: str, version: str | None = None) -> ModelReady:
    """Whether this bundle would answer now."""
    predictor = _predictor(request, name, version)
    return ModelReady(name=predictor.bundle.manifest.name)


@router.get("/models/{name}", responses=problems.responses(401, 404, 503))
@router.get("/models/{name}/versions/{version}", responses=problems.responses(401, 404, 503))
async def model(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    """The tensors that a bundle takes and answers."""
    predictor = _predictor(request, name, version)
    manifest = predictor.bundle.manifest
    return ModelMetadata(
        name=manifest.name,
        versions=[manifest.version],
        platform=predictor.threads.runtime.name,
        inputs=protocol.inputs(manifest),
        outputs=protocol.outputs(manifest),
    )


_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": problems.responses(400, 401, 404, 413, 422, 429, 500, 503, 504),
    "openapi_extra": _BODY,
}


@router.post("/models/{name}/infer", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer(
    request: Request,
    name: str,
    version: str | None = None,
    json_size: Annotated[str | None, Header(alias=_JSON_SIZE)] = None,
) -> Response:
    """Run prepared tensors: `rgb` of 0 to 255, `aux` in [0, 1] with near = 1 and missing = 0."""
    predictor = _predictor(request, name, version)
    body = await request.body()

    def hold(rows: int) -> None:
        hold_room(request, predictor, rows)

    answer, size = await predictor.tensors(body, json_size, hold, request.state.times)
    headers = {"X-Model-Id": predictor.bundle.manifest.model_id}
    if size is None:
        return Response(answer, headers=headers, media_type="application/json")
    headers[_JSON_SIZE] = str(size)
    return Response(answer, headers=headers, media_type="application/octet-stream")


def _predictor(request: Request, name: str, version: str | None) -> Predictor:
    service: Service = request.app.state.service
    predictor = service.predictors().get(name)
    if predictor is None or version not in (None, predictor.bundle.manifest.version):
        which = "" if version is None else f" of version {version!r}"
        raise UnknownModel(f"no bundle is named {name!r}{which}", field="name")
    service.check_accepting()
    predictor.check_healthy()
    return predictor
