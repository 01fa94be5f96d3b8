"""Command line: serve, predict, models, check, openapi."""

from __future__ import annotations

import json
import os
from typing import Annotated

import structlog
import typer

from app import keys, reference, server
from app.commands import models, predict
from app.commands.check import check
from app.commands.start import read_settings, stop
from app.main import create_app
from app.settings import unknown_variables
from app.telemetry import configure_logging

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve MutualFormer bundles. Settings come from MUTUALFORMER_* variables.",
)
cli.add_typer(predict.cli, name="predict")
cli.add_typer(models.cli, name="models")
cli.command()(check)


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Instead of MUTUALFORMER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of MUTUALFORMER_PORT.")] = None,
) -> None:
    """Serve every bundle over HTTP until interrupted."""
    settings = read_settings(host=host, port=port)
    log_config = configure_logging(settings.log_level)
    log = structlog.get_logger()
    log.info("settings", **settings.model_dump(mode="json"))
    for name in unknown_variables(os.environ):
        log.warning("no setting reads this variable", variable=name)

    try:
        # Before anything is loaded, so that a wrong port is the first thing said.
        listener = server.listen(settings)
    except OSError as error:
        raise stop(str(error)) from error
    with listener:
        failure = server.serve(settings, listener, log_config)
    if failure is not None:
        raise stop(f"start-up failed: {failure}")


@cli.command()
def openapi(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As docs/api.md instead of JSON.")
    ] = False,
) -> None:
    """Print the description of the API, that of /metrics included; needs no bundle."""
    described = create_app(read_settings(metrics=True)).openapi()
    typer.echo(reference.markdown(described) if markdown else json.dumps(described), nl=False)


@cli.command()
def new_key(name: str) -> None:
    """Print a new API key, and the line for MUTUALFORMER_API_KEYS_FILE that makes it known."""
    key, line = keys.new_key(name)
    typer.echo(f"key, for the client: {key}\nline, for the file:  {line}")


if __name__ == "__main__":
    cli()
