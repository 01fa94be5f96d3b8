"""The HTTP application, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse, Response

from app import problems, reference
from app.middleware import AdmissionGate, BodyLimit, Guard, RequestFrame
from app.routes import health, metrics, models, page, protocol, reid, saliency
from app.service import MakeRuntime, Service, make_runtime
from app.settings import Settings

TITLE = "MutualFormer Serve"
VERSION = "0.1.0"


def create_app(
    settings: Settings,
    *,
    make_runtime: MakeRuntime = make_runtime,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """Build the application; bundles load in the background once its lifespan begins.

    Args:
        settings: read by the entry point.
        make_runtime: what runs a bundle.
        on_failure: called when start-up fails, and when a network fails for good;
            `app.state.service.failure` says why.
    """
    service = Service(settings, make_runtime)
    if on_failure is not None:
        service.on_fault = on_failure

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            await service.start()
            if service.failure is not None and on_failure is not None:
                on_failure()

        starting = asyncio.create_task(start())
        yield
        service.draining = True
        await starting
        await service.close()

    app = _DescribedApp(
        title=TITLE,
        description=reference.ABOUT,
        version=VERSION,
        summary="Saliency maps of pictures with depth, embeddings of crops with near-infrared.",
        lifespan=lifespan,
        # Of requests, to where OpenTelemetry's own environment variables say; nowhere by default.
        telemetry={"auto_configure": True},
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestFrame, service=service),
            *_cors(settings),
            Middleware(Guard, service=service),
            Middleware(BodyLimit, max_bytes=settings.max_upload_bytes),
            Middleware(AdmissionGate, service=service),
        ],
        # More than any form takes, so that most of what is too much is refused by its field.
        form_limits={"max_files": 8, "max_fields": 8},
    )
    app.state.service = service
    problems.install(app)
    for routes in (saliency, reid, models, health, protocol):
        app.include_router(routes.router)

    if settings.page:
        app.include_router(page.make_router())
    if settings.metrics:
        app.include_router(metrics.router)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        if settings.docs:
            return RedirectResponse("/docs")
        return JSONResponse({"name": TITLE, "version": app.version})

    return app


def _cors(settings: Settings) -> list[Middleware]:
    """Lets browsers hand answers to the pages of the origins listed, and read every header."""
    origins = settings.origins()
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-Request-Id", "X-Request-Timeout-Ms"],
            expose_headers=["*"],
        )
    ]


class _DescribedApp(FastAPI):
    """Describes its errors as the problems that they are, and bodies that routes read alone."""

    def openapi(self) -> dict[str, Any]:
        described = problems.describe(super().openapi())
        described["components"]["schemas"].update(protocol.DEFINITIONS)
        return described
