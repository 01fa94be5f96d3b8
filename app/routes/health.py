"""Three probes, three truths; see `app.service.Service`."""

from __future__ import annotations

from fastapi import APIRouter, Request

from app import problems
from app.schemas import Health
from app.service import Service

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> Health:
    """The process answers. Restart it when it does not."""
    return Health(status="live")


@router.get("/startupz", responses=problems.responses(503))
async def started(request: Request) -> Health:
    """Every bundle was verified, warmed up and passed its canary; until then, the progress."""
    service: Service = request.app.state.service
    service.check_started()
    return Health(status="started")


@router.get("/readyz", responses=problems.responses(503))
async def ready(request: Request) -> Health:
    """Requests would be answered now. Send none while this fails."""
    service: Service = request.app.state.service
    service.check_ready()
    return Health(status="ready")
