"""`predict`: files in, files out, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from app.commands.batch import OtherAnswers, Question, Tally, Unwritable, run
from app.commands.pairs import GREY_SUFFIXES, FilePair, Matched, NoPairs, check_targets, match
from app.commands.start import (
    STARTING_FAILED,
    AsJson,
    BundlesFolder,
    print_json,
    read_settings,
    stop,
    warn,
)
from app.errors import Place, ServiceError
from app.images import Upload
from app.predictor import Answer, Predictor
from app.reid import ReIDPredictor
from app.saliency import SaliencyPredictor
from app.schemas import EmbeddingOptions, Encoding, Output, PairOptions, SaliencyOptions, Size
from app.service import Service
from app.settings import Settings
from app.telemetry import StageTimes
from model.preprocessing import DepthConvention

cli = typer.Typer(no_args_is_help=True, help="Answer pairs of files, without a server.")

_SHOWN = 10
"""Most lines about pictures that are at fault; `--json` lists all."""
_MORE_WORDS = {"allow_extra_args": True}  # for a word on patterns that the shell has expanded

Rgb = Annotated[str, typer.Argument(help="A file, a folder, or a quoted pattern: 'in/*_rgb.jpg'.")]
Out = Annotated[
    Path, typer.Option(help="Folder of the answers; for one pair of files also a file.")
]
Model = Annotated[str | None, typer.Option(help="Name of a bundle.")]
Resize = Annotated[
    bool,
    typer.Option(
        "--resize", help="Take pairs of two sizes, if their aspect ratios agree within 2 %."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make finished answers again.")]


@cli.command(context_settings=_MORE_WORDS)
def saliency(
    context: typer.Context,
    rgb: Rgb,
    out: Out,
    depth: Annotated[
        str | None,
        typer.Argument(
            help="Their depth: a file, a folder or a pattern; some models answer photos alone."
        ),
    ] = None,
    output: Output = "map",
    depth_convention: DepthConvention = "near_bright",
    threshold: Annotated[float, typer.Option(min=0, max=1)] = 0.5,
    size: Size = "original",
    resize: Resize = False,
    model: Model = None,
    bundles: BundlesFolder = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the saliency of registered pairs of pictures.

    Names that agree make pairs: a/1.jpg and b/1.png, or vase_rgb.jpg and vase_depth.png.
    Ctrl-C stops; the same command goes on with what is missing.
    """
    options = SaliencyOptions(
        output=output,
        depth_convention=depth_convention,
        threshold=threshold,
        size=size,
        resize=resize,
        model=model,
    )

    def open_question(service: Service) -> Question:
        predictor = service.predictor(SaliencyPredictor, model)

        async def ask(rgb: bytes, depth: bytes | None = None) -> Answer:
            return await predictor.saliency(rgb, depth, options, StageTimes())

        alone = {"without": "depth"} if depth is None else {}
        return Question(ask, {**_identity(predictor, options), **alone})

    kind = {"npy": ".npy", "json": ".json"}.get(output, ".png")
    _no_more_words(context)
    work = _work(rgb, depth, "depth", GREY_SUFFIXES | {".npy"}, out, kind)
    if depth is None:
        warn("no depth given: every photo is answered alone")
    settings = read_settings(bundles=bundles)
    _predict(work, open_question, settings, overwrite=overwrite, as_json=as_json)


@cli.command(context_settings=_MORE_WORDS)
def reid(
    context: typer.Context,
    rgb: Rgb,
    nir: Annotated[str, typer.Argument(help="Their near-infrared: a file, folder or pattern.")],
    out: Out,
    encoding: Encoding = "float",
    resize: Resize = False,
    model: Model = None,
    bundles: BundlesFolder = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the embeddings of colour crops and their near-infrared partners, a JSON file each.

    Names that agree make pairs: a/1.jpg and b/1.png, or van_rgb.jpg and van_nir.png.
    Ctrl-C stops; the same command goes on with what is missing.
    """
    options = EmbeddingOptions(encoding=encoding, resize=resize, model=model)

    def open_question(service: Service) -> Question:
        predictor = service.predictor(ReIDPredictor, model)

        async def ask(rgb: bytes, nir: bytes) -> Answer:
            pair = Upload(rgb, Place("rgb")), Upload(nir, Place("nir"))
            return await predictor.embeddings([pair], options, StageTimes())

        return Question(ask, _identity(predictor, options))

    _no_more_words(context)
    work = _work(rgb, nir, "nir", GREY_SUFFIXES, out, ".json")
    settings = read_settings(bundles=bundles)
    _predict(work, open_question, settings, overwrite=overwrite, as_json=as_json)


def _identity(predictor: Predictor, options: PairOptions) -> dict[str, Any]:
    return {"model_id": predictor.bundle.manifest.model_id, **options.model_dump(exclude={"model"})}


def _no_more_words(context: typer.Context) -> None:
    if context.args:
        raise stop(
            f"unexpected {context.args[0]!r}: the shell expands a pattern into its files unless "
            "it is quoted, like 'in/*.jpg'"
        )


class _Work(NamedTuple):
    matched: Matched
    folder: Path | None
    """Of the answers; none for one pair whose answer is one file."""
    out: Path


def _work(
    rgb: str, aux: str | None, role: str, suffixes: frozenset[str], out: Path, kind: str
) -> _Work:
    """What is to be done, or a word on why nothing can be."""
    pair = FilePair(Path(rgb), None if aux is None else Path(aux), out)
    try:
        if out.suffix and not out.is_dir() and all(path.is_file() for path in pair.pictures):
            if not out.parent.is_dir():
                raise NoPairs(f"{out.parent} is not a folder")
            check_targets([pair])
            return _Work(Matched([pair], []), None, out)
        if out.exists() and not out.is_dir():
            raise NoPairs(f"{out} is a file; the answers to several pairs need a folder")
        return _Work(match(rgb, aux, role, suffixes, out, kind), out, out)
    except NoPairs as error:
        raise stop(str(error)) from error


def _predict(
    work: _Work,
    open_question: Callable[[Service], Question],
    settings: Settings,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Answer every pair, tell how it went, and exit with what that means."""
    pairs, alone = work.matched.pairs, work.matched.alone
    _warn_some([f"no partner for {path}" for path in alone])
    tally = Tally(len(pairs))
    try:
        with _progress(tally) as on_progress:
            asyncio.run(
                run(
                    pairs,
                    work.folder,
                    open_question,
                    settings,
                    tally,
                    on_progress,
                    overwrite=overwrite,
                )
            )
    except (KeyboardInterrupt, asyncio.CancelledError):
        tally.interrupted = True
    except ServiceError as error:
        raise stop(f"{error.field or error.code}: {error.detail}") from error
    except (OtherAnswers, Unwritable, *STARTING_FAILED) as error:
        raise stop(str(error)) from error
    _report(work, tally, as_json=as_json)
    if tally.interrupted:
        raise typer.Exit(130)
    if tally.failed or alone:
        raise typer.Exit(1)


@contextmanager
def _progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.fields[phase]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("", total=tally.pairs, phase="loading")

        def on_progress() -> None:
            progress.update(bar, completed=tally.pairs - tally.left, phase="predicting")

        yield on_progress


def _report(work: _Work, tally: Tally, *, as_json: bool) -> None:
    if as_json:
        alone = [str(path) for path in work.matched.alone]
        print_json({"out": str(work.out), **tally.report(), "alone": alone})
    if work.folder is None:
        for failure in tally.failed:
            raise stop(f"{failure['field'] or failure['code']}: {failure['detail']}")
        _warn_some([warning["warning"] for warning in tally.warnings])
        return
    _warn_some([f"{warning['rgb']}: {warning['warning']}" for warning in tally.warnings])
    _warn_some(
        [
            f"{failure['rgb']}: {failure['field'] or failure['code']}: {failure['detail']}"
            for failure in tally.failed
        ]
    )
    if not as_json:
        rate = tally.written / tally.seconds if tally.seconds else 0.0
        typer.echo(
            f"{tally.written} written to {work.out}, {tally.skipped} finished before, "
            f"{len(tally.failed)} failed; {tally.seconds:.1f} s, {rate:.1f} pairs/s, "
            f"runtime busy {tally.runtime_busy:.0%}"
        )
    if tally.interrupted:
        warn(f"stopped with {tally.left} left; the same command goes on with them")


def _warn_some(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        warn(line)
    if len(lines) > _SHOWN:
        warn(f"... and {len(lines) - _SHOWN} more")
