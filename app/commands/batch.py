"""Many pairs of files through one predictor, so that its runtime never waits for files.

Pairs are read, decoded, run, encoded and written side by side, `IN_FLIGHT` of them at a time.
An answer appears under its name only once it is whole, and a run that was stopped goes on where
it ended: what is there already, and no older than its pictures, is not made again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.commands.pairs import FilePair
from app.commands.start import started
from app.errors import BadPicture
from app.predictor import Answer
from app.service import Service, make_runtime
from app.settings import Settings
from model.bundle import Bundle
from model.runtimes.base import Runtime

IN_FLIGHT = 32
"""Pairs between reading and writing: enough for a batch that runs, one that gathers, and the
files of two more."""
RECORD = ".predict"
"""In the folder of the answers: what made them."""

Ask = Callable[..., Awaitable[Answer]]
"""Answers the files of one pair, each as bytes."""


@dataclass(frozen=True)
class Question:
    """Who answers, and all that decides what the answers are."""

    ask: Ask
    identity: dict[str, Any]
    """`model_id` and the options."""


class Unwritable(Exception):  # noqa: N818 - named for what happened
    """An answer cannot be written: no other could be."""


class OtherAnswers(Exception):  # noqa: N818 - named for what happened
    """The folder holds answers that another model gave, or to another question."""


@dataclass
class Tally:
    """How far a run has come; it outlives an interruption."""

    pairs: int
    model_id: str | None = None
    written: int = 0
    skipped: int = 0
    """Finished by an earlier run."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    """From the first file to the last answer; loading is not counted."""
    busy_s: float = 0.0
    """In the runtime."""
    interrupted: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wrote(self, pair: FilePair, warnings: list[str]) -> None:
        """Count an answer; in the thread that wrote it, which no cancelling comes between."""
        with self._lock:
            self.written += 1
            self.warnings += [{"rgb": str(pair.rgb), "warning": text} for text in warnings]

    def report(self) -> dict[str, Any]:
        """All of it, for programs; pairs in the order of their names."""
        return {
            "model_id": self.model_id,
            "pairs": self.pairs,
            "written": self.written,
            "skipped": self.skipped,
            "failed": sorted(self.failed, key=_rgb),
            "left": self.left,
            "warnings": sorted(self.warnings, key=_rgb),
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "busy_s": round(self.busy_s, 3),
            "runtime_busy": round(self.runtime_busy, 4),
        }

    @property
    def left(self) -> int:
        """Pairs without an answer that were not tried."""
        return self.pairs - self.written - self.skipped - len(self.failed)

    @property
    def runtime_busy(self) -> float:
        """Share of the time in which the runtime ran, in [0, 1]."""
        return self.busy_s / self.seconds if self.seconds else 0.0


def _rgb(entry: Mapping[str, Any]) -> str:
    return str(entry["rgb"])


class BusyClock:
    """Adds up the time that runtimes spend in `run`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_s = 0.0
        self._since: dict[int, float] = {}

    def seconds(self) -> float:
        """So far, runs that have not ended included."""
        with self._lock:
            now = time.perf_counter()
            return self._done_s + sum(now - since for since in self._since.values())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        me = threading.get_ident()
        with self._lock:
            self._since[me] = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._done_s += time.perf_counter() - self._since.pop(me)

    def make_runtime(self, bundle: Bundle, settings: Settings) -> Runtime:
        """A runtime that is watched."""
        return _Watched(make_runtime(bundle, settings), self)


class _Watched:
    def __init__(self, runtime: Runtime, clock: BusyClock) -> None:
        self.name = runtime.name
        self.device = runtime.device
        self.close = runtime.close
        self._run = runtime.run
        self._clock = clock

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Runtime`."""
        with self._clock.running():
            return self._run(rgb, aux)


def is_finished(pair: FilePair, record: Path) -> bool:
    """Whether the answer is there, and no older than its pictures and the record."""
    try:
        made = pair.out.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns <= made for path in (*pair.pictures, record))
    except OSError:
        return False


def write_whole(path: Path, body: bytes) -> None:
    """Write so that a reader sees the whole file or none.

    Raises:
        Unwritable: the folder or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(body)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror or error}") from error


def open_folder(
    folder: Path, pairs: Sequence[FilePair], identity: dict[str, Any], *, overwrite: bool
) -> list[FilePair]:
    """Note in the folder what its answers are, unless it says so already.

    What is older than that note counts as unfinished; to overwrite is to write it anew.

    Returns:
        The pairs that are not finished.

    Raises:
        OtherAnswers: the folder holds answers of another kind, or files that nobody explains.
        Unwritable: the folder cannot be written.
    """
    record = folder / RECORD
    try:
        found = json.loads(record.read_bytes())
    except (OSError, ValueError):
        found = None
    if found == identity and not overwrite:
        return [pair for pair in pairs if not is_finished(pair, record)]
    if not overwrite and (there := next((pair.out for pair in pairs if pair.out.exists()), None)):
        raise OtherAnswers(
            f"{there} is there already, and {_difference(found, identity)}; "
            "give another folder, or --overwrite to make all anew"
        )
    write_whole(record, json.dumps(identity, indent=2).encode() + b"\n")
    return list(pairs)


def _difference(found: Any, identity: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"no {RECORD} beside it tells what it is"
    was = {name: value for name, value in found.items() if identity.get(name) != value}
    return "was made with " + ", ".join(f"{name}={value}" for name, value in was.items())


async def run(
    pairs: Sequence[FilePair],
    folder: Path | None,
    open_question: Callable[[Service], Question],
    settings: Settings,
    tally: Tally,
    on_progress: Callable[[], None],
    *,
    overwrite: bool,
) -> None:
    """Answer what is not finished, until all is or SIGINT or SIGTERM comes.

    Args:
        pairs: what to answer.
        folder: of all answers; none: nothing counts as finished.
        open_question: finds who answers.
        settings: of the service.
        tally: filled as answers are written.
        on_progress: called after each pair.
        overwrite: make finished answers again.

    Raises:
        BundleError, RuntimeFailure: see `started`.
        ServiceError: not a picture is at fault.
        OtherAnswers, Unwritable: see `open_folder`.
        asyncio.CancelledError: stopped; nothing is half written.
    """
    clock = BusyClock()
    me = asyncio.current_task()
    if me is not None and threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):  # Windows, where only Ctrl-C stops
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    async with started(settings, clock.make_runtime) as service:
        question = open_question(service)
        tally.model_id = question.identity["model_id"]
        if folder is not None:
            unfinished = open_folder(folder, pairs, question.identity, overwrite=overwrite)
            tally.skipped = len(pairs) - len(unfinished)
            pairs = unfinished
        on_progress()
        waiting = iter(pairs)
        began, busy_before = time.perf_counter(), clock.seconds()

        async def work() -> None:
            for pair in waiting:
                await _answer(pair, question.ask, tally)
                on_progress()

        tasks = [asyncio.create_task(work()) for _ in range(min(IN_FLIGHT, len(pairs)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            tally.seconds = time.perf_counter() - began
            tally.busy_s = clock.seconds() - busy_before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(pair: FilePair, ask: Ask, tally: Tally) -> None:
    """Answer one pair; a picture that cannot be read or used fails alone."""
    try:
        files = await asyncio.to_thread(lambda: [path.read_bytes() for path in pair.pictures])
        answer = await ask(*files)
    except BadPicture as error:
        _fail(tally, pair, error.code, error.detail, error.field)
        return
    except OSError as error:
        _fail(tally, pair, "unreadable_file", f"{error.filename}: {error.strerror}", None)
        return

    def write() -> None:
        write_whole(pair.out, answer.body)
        tally.wrote(pair, answer.warnings)

    await asyncio.to_thread(write)


def _fail(tally: Tally, pair: FilePair, code: str, detail: str, place: str | None) -> None:
    tally.failed.append(
        {
            "rgb": str(pair.rgb),
            "aux": None if pair.aux is None else str(pair.aux),
            "code": code,
            "field": place,
            "detail": detail,
        }
    )
