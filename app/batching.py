"""Bounded, deadline-aware batching: pairs wait a moment for company, then run together.

One `Batcher` stands before each bundle's runtime. It lives on the event loop; the runtime has a
thread of its own, so while one batch runs the next one gathers. Work that nobody waits for any
more, because its deadline passed or its client left, is dropped before the runtime sees it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import DeadlineExceeded, NotReady, Overloaded
from model.runtimes.base import OutOfMemory, RuntimeFailure

Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]
Rows = NDArray[np.float32]
Run = Callable[[Rgb, Aux], Awaitable[Rows]]
"""Runs a batch, row by row: (B, H, W, 3) and (B, H, W, 1) in, B rows out."""
Dropped = Literal["expired", "departed"]

_RATE_MEMORY = 0.8
"""Weight of the past in the drain rate, per batch."""


@dataclass(frozen=True)
class BatchLimits:
    """How batches form, and how much may wait."""

    max_batch: int = 8
    """Most pairs of one run."""
    max_queue_delay_s: float = 0.005
    """Longest that a pair waits for a fuller batch while the runtime could run one."""
    max_queue: int = 256
    """Most pairs waiting."""
    max_queue_bytes: int = 512 * 2**20
    """Most bytes of prepared arrays waiting."""
    max_run_s: float = 60.0
    """A run that takes longer hangs: the runtime has failed."""
    max_runs: int = 1
    """Most batches that run at once."""


class Inferred(NamedTuple):
    """One pair's row, and how it came about."""

    row: Rows
    queue_s: float
    """Between submission and the start of the run."""
    infer_s: float
    """The run of the whole batch."""
    batch_size: int
    batch: int
    """Which run of this batcher, counted from 1."""


class Watch:
    """Told what happens; a place for counters. Does nothing by itself."""

    def ran(self, size: int, seconds: float) -> None:
        """A batch of `size` pairs ran."""

    def dropped(self, reason: Dropped) -> None:
        """A pair was dropped before it ran."""

    def failed(self, error: Exception) -> None:
        """A run failed, with anything but a `RuntimeFailure` if the runtime broke its word."""


@dataclass(eq=False)
class _Waiting:
    rgb: Rgb
    aux: Aux
    deadline: float
    since: float
    answer: asyncio.Future[Inferred]

    @property
    def size_bytes(self) -> int:
        return self.rgb.nbytes + self.aux.nbytes


class Batcher:
    """Gathers pairs into batches for one runtime, oldest first.

    Args:
        run: the runtime; called with one batch at a time, or with `max_runs`.
        limits: see `BatchLimits`.
        watch: told of batches, drops and failures.
    """

    def __init__(self, run: Run, limits: BatchLimits, watch: Watch | None = None) -> None:
        self.limits = limits
        self._run = run
        self._watch = watch or Watch()
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._running = 0
        self._runs = 0
        self._rate = 0.0
        self._arrived = asyncio.Event()
        self._closing = False
        self._worker: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Pairs that wait or run."""
        return len(self._queue) + self._running

    def retry_after_s(self, pairs: int = 1) -> int:
        """Seconds after which `pairs` more would find room, by the rate at which the queue drains.

        At least 1; also 1 before anything ran.
        """
        excess = self.depth + pairs - self.limits.max_queue
        if self._rate <= 0:
            return 1
        rate = self._rate * self.limits.max_runs
        return max(1, math.ceil(max(excess, self.limits.max_batch) / rate))

    async def infer(self, rgb: Rgb, aux: Aux, *, deadline: float = math.inf) -> Inferred:
        """Answer one pair.

        Args:
            rgb: uint8 (H, W, 3).
            aux: float32 (H, W, 1).
            deadline: in the event loop's time; later the answer is of no use.

        Raises:
            Overloaded: no room in the queue.
            DeadlineExceeded: the deadline passed; if the pair had not run yet, it will not.
            NotReady: the batcher is closed.
            RuntimeFailure: the run failed.
        """
        loop = asyncio.get_running_loop()
        if self._closing:
            raise NotReady("shutting down")
        waiting = _Waiting(rgb, aux, deadline, loop.time(), loop.create_future())
        full = len(self._queue) >= self.limits.max_queue
        if full or self._queued_bytes + waiting.size_bytes > self.limits.max_queue_bytes:
            raise Overloaded("the queue is full", retry_after_s=self.retry_after_s())
        if self._worker is None:
            self._worker = loop.create_task(self._serve(), name="batcher")
        self._queue.append(waiting)
        self._queued_bytes += waiting.size_bytes
        self._arrived.set()
        try:
            async with asyncio.timeout_at(None if math.isinf(deadline) else deadline):
                return await waiting.answer
        except TimeoutError as error:
            raise DeadlineExceeded("no answer before the deadline") from error

    async def close(self) -> None:
        """Take no more work, finish what waits, and end."""
        self._closing = True
        self._arrived.set()
        if self._worker is not None:
            await self._worker

    async def _serve(self) -> None:
        places = asyncio.Semaphore(self.limits.max_runs)
        async with asyncio.TaskGroup() as runs:
            while True:
                await places.acquire()
                batch = await self._gather()
                if not batch:
                    return
                self._running += len(batch)
                runs.create_task(self._answer_all(batch, places))

    async def _answer_all(self, batch: list[_Waiting], place: asyncio.Semaphore) -> None:
        try:
            await self._answer(batch, may_split=True)
        finally:
            self._running -= len(batch)
            place.release()

    async def _gather(self) -> list[_Waiting]:
        """Wait for a batch; empty when the batcher is closed and nothing waits."""
        loop = asyncio.get_running_loop()
        while True:
            self._drop_forsaken(loop.time())
            self._arrived.clear()
            if self._queue:
                due = self._queue[0].since + self.limits.max_queue_delay_s
                full = len(self._queue) >= self.limits.max_batch
                if full or self._closing or loop.time() >= due:
                    return [
                        self._take() for _ in range(min(len(self._queue), self.limits.max_batch))
                    ]
            elif self._closing:
                return []
            else:
                due = None
            try:
                async with asyncio.timeout_at(due):
                    await self._arrived.wait()
            except TimeoutError:
                pass

    def _take(self) -> _Waiting:
        waiting = self._queue.popleft()
        self._queued_bytes -= waiting.size_bytes
        return waiting

    def _drop_forsaken(self, now: float) -> None:
        """Remove what nobody waits for; its caller has its error already, or is gone."""
        kept = []
        for waiting in self._queue:
            if not waiting.answer.done() and now < waiting.deadline:
                kept.append(waiting)
                continue
            self._queued_bytes -= waiting.size_bytes
            self._watch.dropped("expired" if now >= waiting.deadline else "departed")
        if len(kept) < len(self._queue):
            self._queue = deque(kept)

    async def _answer(self, batch: list[_Waiting], *, may_split: bool) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            rows = await self._run_batch(batch)
        except OutOfMemory as error:
            if may_split and len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle], may_split=False)
                await self._answer(batch[middle:], may_split=False)
            else:
                self._fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the next batch runs
            self._fail(batch, error)
            return
        self._runs += 1
        seconds = loop.time() - started
        rate = len(batch) / max(seconds, 1e-6)
        self._rate = (
            rate if not self._rate else _RATE_MEMORY * self._rate + (1 - _RATE_MEMORY) * rate
        )
        self._watch.ran(len(batch), seconds)
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(
                    Inferred(row, started - waiting.since, seconds, len(batch), self._runs)
                )

    async def _run_batch(self, batch: list[_Waiting]) -> Rows:
        rgb = _stack([waiting.rgb for waiting in batch])
        aux = _stack([waiting.aux for waiting in batch])
        try:
            async with asyncio.timeout(self.limits.max_run_s):
                rows = await self._run(rgb, aux)
        except TimeoutError as error:
            raise RuntimeFailure(f"a run took longer than {self.limits.max_run_s:g} s") from error
        if len(rows) != len(batch):
            raise RuntimeFailure(f"{len(batch)} rows went in, {len(rows)} came out")
        return rows

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        self._watch.failed(error)
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _stack(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """A batch of them; of one, without a copy."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
