"""`/v1/models`: what is served, where it came from, and how it runs."""

from __future__ import annotations

from fastapi import APIRouter, Request

from app import problems
from app.errors import UnknownModel
from app.predictor import Predictor
from app.schemas import ModelList, ModelReport
from app.service import Service

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=problems.responses(401, 503))
async def models(request: Request) -> ModelList:
    """List every bundle being served."""
    service: Service = request.app.state.service
    return ModelList(
        models=[_report(service, predictor) for predictor in service.predictors().values()]
    )


@router.get("/v1/models/{name}", responses=problems.responses(401, 404, 503))
async def model(request: Request, name: str) -> ModelReport:
    """One bundle: manifest, parity, active runtime and device."""
    service: Service = request.app.state.service
    predictor = service.predictors().get(name)
    if predictor is None:
        raise UnknownModel(f"no bundle is named {name!r}", field="name")
    return _report(service, predictor)


def _report(service: Service, predictor: Predictor) -> ModelReport:
    manifest, runtime = predictor.bundle.manifest, predictor.threads.runtime
    return ModelReport(
        name=manifest.name,
        model_id=manifest.model_id,
        default=service.default(manifest.task) == manifest.name,
        runtime=runtime.name,
        device=runtime.device,
        requested_device=service.settings.device,
        canary_max_error=predictor.canary_max_error,
        manifest=manifest,
        parity=predictor.bundle.parity,
    )
