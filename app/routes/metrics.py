"""`/metrics`, as Prometheus reads it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.metrics import MEDIA_TYPE
from app.service import Service

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counters and histograms of this process, in Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(ready=service.ready), media_type=MEDIA_TYPE)
