"""What every command begins with: settings, a started service, and one way to give up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.service import MakeRuntime, Service, make_runtime
from app.settings import Settings
from app.telemetry import configure_logging
from model.bundle import BundleError
from model.runtimes.base import RuntimeFailure

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BundlesFolder = Annotated[
    Path | None, typer.Option("--bundles", help="Instead of MUTUALFORMER_BUNDLES.")
]


def stop(message: str) -> typer.Exit:
    """Say what is wrong; raise the result."""
    typer.secho(message, err=True, fg="red")
    return typer.Exit(1)


def warn(message: str) -> None:
    """Say what may be wrong."""
    typer.secho(message, err=True, fg="yellow")


def print_json(report: Any) -> None:
    """The only thing that a command prints on standard output under `--json`."""
    typer.echo(json.dumps(report, indent=2, ensure_ascii=False))


def read_settings(**overrides: Any) -> Settings:
    """Settings from the environment; an override that is None counts as absent."""
    try:
        return try_settings(**overrides)
    except ValidationError as error:
        raise stop("\n".join(explain(error))) from error


def try_settings(**overrides: Any) -> Settings:
    """As `read_settings`, but raises `ValidationError`."""
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def explain(error: ValidationError) -> list[str]:
    """One line for each setting at fault."""
    return [
        f"MUTUALFORMER_{item['loc'][0]}".upper() + f": {item['msg']}, got {item['input']!r}"
        for item in error.errors()
    ]


@asynccontextmanager
async def started(
    settings: Settings, make_runtime: MakeRuntime = make_runtime
) -> AsyncIterator[Service]:
    """A service with every bundle loaded and tested, closed in the end.

    Raises:
        BundleError: there is no bundle, or a bad one.
        RuntimeFailure: a network does not load, run, or answer as it did for its exporter.
    """
    configure_logging("critical")  # whatever goes wrong is raised, and said once
    service = Service(settings, make_runtime)
    await service.start()
    try:
        if service.failure is not None:
            raise service.failure
        yield service
    finally:
        await service.close()


STARTING_FAILED = (BundleError, RuntimeFailure)
"""What `started` raises when the fault is not ours."""
