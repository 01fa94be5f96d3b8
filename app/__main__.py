"""Command line: serve, predict, check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvicorn
from pydantic import ValidationError

from app.errors import Place, ServiceError
from app.images import Upload
from app.main import create_app
from app.predictor import Answer
from app.reid import ReIDPredictor
from app.saliency import SaliencyPredictor
from app.schemas import EmbeddingOptions, Encoding, Output, SaliencyOptions
from app.service import Service
from app.settings import Settings, unknown_variables
from app.telemetry import StageTimes, configure_logging
from model.preprocessing import DepthConvention

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve MutualFormer bundles. Settings come from MUTUALFORMER_* variables.",
)
predict = typer.Typer(no_args_is_help=True, help="Answer one pair of files, without a server.")
cli.add_typer(predict, name="predict")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Instead of MUTUALFORMER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of MUTUALFORMER_PORT.")] = None,
) -> None:
    """Serve every bundle over HTTP until interrupted."""
    settings = _settings(host=host, port=port)
    log_config = configure_logging(settings.log_level)
    log = structlog.get_logger()
    log.info("settings", **settings.model_dump(mode="json"))
    for name in unknown_variables(os.environ):
        log.warning("no setting reads this variable", variable=name)

    def stop() -> None:
        server.should_exit = True

    app = create_app(settings, on_failure=stop)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=log_config,
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
    )
    with (
        _listen(settings.host, settings.port) as listener,
        contextlib.suppress(KeyboardInterrupt),  # raised again once the server has drained
    ):
        server.run(sockets=[listener])
    service: Service = app.state.service
    if service.failure is not None:
        raise _stop(f"start-up failed: {service.failure}")


@predict.command()
def saliency(
    rgb: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    depth: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="File to write.")],
    output: Output = "map",
    depth_convention: DepthConvention = "near_bright",
    threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.5,
    model: Annotated[str | None, typer.Option(help="Name of a bundle.")] = None,
) -> None:
    """Write the saliency of one registered pair of pictures."""
    options = SaliencyOptions(
        output=output, depth_convention=depth_convention, threshold=threshold, model=model
    )

    async def answer(service: Service) -> Answer:
        predictor = service.predictor(SaliencyPredictor, options.model)
        return await predictor.saliency(rgb.read_bytes(), depth.read_bytes(), options, StageTimes())

    _predict(answer, out, (rgb, depth))


@predict.command()
def reid(
    rgb: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    nir: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    encoding: Encoding = "float",
    model: Annotated[str | None, typer.Option(help="Name of a bundle.")] = None,
) -> None:
    """Write the embedding of one colour crop and its near-infrared partner."""
    options = EmbeddingOptions(encoding=encoding, model=model)

    async def answer(service: Service) -> Answer:
        predictor = service.predictor(ReIDPredictor, options.model)
        pair = Upload(rgb.read_bytes(), Place("rgb")), Upload(nir.read_bytes(), Place("nir"))
        return await predictor.embeddings([pair], options, StageTimes())

    _predict(answer, out, (rgb, nir))


def _predict(
    answer: Callable[[Service], Awaitable[Answer]], out: Path, sources: tuple[Path, Path]
) -> None:
    """Write what a service answers about the pictures in `sources`."""
    settings = _settings()
    configure_logging("error")

    async def run() -> bytes:
        service = await _started(settings)
        try:
            return (await answer(service)).body
        finally:
            service.close()

    if not out.parent.is_dir():
        raise _stop(f"{out.parent} is not a folder")
    if out.exists() and any(out.samefile(source) for source in sources):
        raise _stop(f"{out} is one of the pictures themselves")
    try:
        out.write_bytes(asyncio.run(run()))
    except ServiceError as error:
        raise _stop(f"{error.field or error.code}: {error.detail}") from error
    except OSError as error:
        raise _stop(f"cannot write {out}: {error.strerror}") from error


@cli.command()
def check() -> None:
    """Verify settings, and load and test every bundle as `serve` would."""
    settings = _settings()
    configure_logging("error")
    for name, value in settings.model_dump(mode="json").items():
        typer.echo(f"{name} = {value}")
    unknown = unknown_variables(os.environ)
    if unknown:
        raise _stop(f"no setting reads {', '.join(unknown)}")

    async def load() -> Service:
        service = await _started(settings)
        service.close()
        return service

    for predictor in asyncio.run(load()).predictors().values():
        runtime = predictor.thread.runtime
        typer.echo(
            f"{predictor.bundle.manifest.model_id}: good on {runtime.name}, {runtime.device}; "
            f"canary error {predictor.canary_max_error:.2g}"
        )
        if predictor.fell_back(settings.device):
            typer.secho(f"  asked for {settings.device}, which is not there", fg="yellow", err=True)


def _listen(host: str, port: int) -> socket.socket:
    """Open the port before anything is loaded, so that a wrong one is the first thing said."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise _stop(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


async def _started(settings: Settings) -> Service:
    service = Service(settings)
    await service.start()
    if service.failure is not None:
        raise _stop(str(service.failure))
    return service


def _settings(**overrides: Any) -> Settings:
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [
            f"MUTUALFORMER_{item['loc'][0]}".upper() + f": {item['msg']}, got {item['input']!r}"
            for item in error.errors()
        ]
        raise _stop("\n".join(problems)) from error


def _stop(message: str) -> typer.Exit:
    typer.secho(message, err=True, fg="red")
    return typer.Exit(1)


if __name__ == "__main__":
    cli()
