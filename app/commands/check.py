"""`check`: would `serve` start here, and answer as it should?"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import typer
from pydantic import ValidationError

from app import server
from app.commands.start import (
    STARTING_FAILED,
    AsJson,
    BundlesFolder,
    explain,
    print_json,
    started,
    stop,
    try_settings,
    warn,
)
from app.settings import Settings, unknown_variables
from model.bundle import BundleError, bundle_folders, open_bundle


def check(bundles: BundlesFolder = None, as_json: AsJson = False) -> None:
    """Verify settings, and load and test every bundle as `serve` would; exit 1 if any is bad."""
    problems = [f"no setting reads {name}" for name in unknown_variables(os.environ)]
    settings: Settings | None = None
    shown: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    try:
        settings = try_settings(bundles=bundles)
        shown = settings.model_dump(mode="json")
    except ValidationError as error:
        problems += explain(error)
    if not as_json:
        for name, value in shown.items():
            typer.echo(f"{name} = {value}")
    if settings is not None:
        broken = _broken_bundles(settings)
        problems += broken
        if not broken:
            try:
                models = asyncio.run(_try_out(settings))
            except STARTING_FAILED as error:
                problems.append(str(error))
    warnings = [
        f"{model['model_id']}: asked for {model['requested_device']}, runs on {model['device']}"
        for model in models
        if not model["device"].startswith(model["requested_device"])
    ]
    if settings is not None:
        warnings += _port_taken(settings)
    if as_json:
        print_json(
            {
                "good": not problems,
                "problems": problems,
                "warnings": warnings,
                "settings": shown,
                "models": models,
            }
        )
    else:
        for model in models:
            typer.echo(
                f"{model['model_id']}: good on {model['runtime']}, {model['device']}; "
                f"canary error {model['canary_max_error']:.2g}"
            )
    for line in warnings:
        warn(line)
    if problems:
        raise stop("\n".join(problems))


def _port_taken(settings: Settings) -> list[str]:
    """No problem where it is this very service that runs already."""
    try:
        server.listen(settings).close()
    except OSError as error:
        return [str(error)]
    return []


def _broken_bundles(settings: Settings) -> list[str]:
    """Every bundle that cannot be opened, where starting names only the first."""
    broken = []
    try:
        for path in bundle_folders(settings.bundles):
            try:
                open_bundle(path)
            except BundleError as error:
                broken.append(str(error))
    except BundleError as error:
        broken.append(str(error))
    return broken


async def _try_out(settings: Settings) -> list[dict[str, Any]]:
    async with started(settings) as service:
        return [
            {
                "model_id": predictor.bundle.manifest.model_id,
                "task": predictor.bundle.manifest.task,
                "runtime": predictor.threads.runtime.name,
                "device": predictor.threads.runtime.device,
                "requested_device": settings.device,
                "canary_max_error": predictor.canary_max_error,
            }
            for predictor in service.predictors().values()
        ]
