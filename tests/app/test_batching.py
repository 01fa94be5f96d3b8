"""The batcher on a clock that jumps to the next timer when nothing else is to do."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from app.batching import Batcher, BatchLimits, Dropped, Inferred, Rows, Watch
from app.errors import DeadlineExceeded, NotReady, Overloaded
from model.runtimes.base import OutOfMemory, RuntimeFailure


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time that it should wait passes at once."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.waited += timeout or 0.0
        return super().select(0)


class FakeClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.waited


def on_fake_clock(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(**arguments: Any) -> None:
        with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
            runner.run(asyncio.wait_for(test(**arguments), 1000))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


class FakeRuntime:
    """Answers each pair's own level after `seconds`; remembers the levels of every batch."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.batches: list[list[int]] = []
        self.error: Callable[[int], Exception | None] = lambda _: None

    async def __call__(self, rgb: Any, aux: Any) -> Rows:
        self.batches.append([int(level) for level in rgb[:, 0, 0, 0]])
        await asyncio.sleep(self.seconds)
        if (error := self.error(len(rgb))) is not None:
            raise error
        return np.asarray(rgb[:, 0, 0, 0] + aux[:, 0, 0, 0], np.float32)


class Counts(Watch):
    def __init__(self) -> None:
        self.drops: list[Dropped] = []
        self.sizes: list[int] = []
        self.failures: list[Exception] = []

    def ran(self, size: int, seconds: float) -> None:  # noqa: ARG002 - Watch's signature
        self.sizes.append(size)

    def dropped(self, reason: Dropped) -> None:
        self.drops.append(reason)

    def failed(self, error: Exception) -> None:
        self.failures.append(error)


def ask(batcher: Batcher, level: int, deadline: float = math.inf) -> Awaitable[Inferred]:
    rgb = np.full((2, 2, 3), level, np.uint8)
    aux = np.full((2, 2, 1), 0.25, np.float32)
    return asyncio.ensure_future(batcher.infer(rgb, aux, deadline=deadline))


def now() -> float:
    return asyncio.get_running_loop().time()


@on_fake_clock
async def test_each_caller_gets_its_own_row_and_batches_are_filled() -> None:
    runtime = FakeRuntime()
    batcher = Batcher(runtime, BatchLimits(max_batch=4))

    answers = await asyncio.gather(*(ask(batcher, level) for level in range(10)))

    assert [float(answer.row) for answer in answers] == [level + 0.25 for level in range(10)]
    assert runtime.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [answer.batch_size for answer in answers] == [4] * 8 + [2] * 2


@on_fake_clock
async def test_as_many_batches_run_at_once_as_are_allowed() -> None:
    runtime = FakeRuntime(seconds=1)
    batcher = Batcher(runtime, BatchLimits(max_batch=2, max_runs=2))

    answers = [ask(batcher, level) for level in range(6)]
    await asyncio.sleep(0.5)

    assert runtime.batches == [[0, 1], [2, 3]]
    assert batcher.depth == 6
    await asyncio.gather(*answers)
    assert now() == pytest.approx(2.0)
    assert batcher.depth == 0


@on_fake_clock
async def test_a_batch_that_fails_leaves_its_place() -> None:
    runtime = FakeRuntime()
    runtime.error = lambda size: RuntimeError("no") if size == 2 else None
    batcher = Batcher(runtime, BatchLimits(max_batch=2, max_runs=2))

    answers = await asyncio.gather(
        *(ask(batcher, level) for level in range(5)), return_exceptions=True
    )

    assert [isinstance(answer, RuntimeError) for answer in answers] == [True] * 4 + [False]
    await batcher.close()


@on_fake_clock
async def test_a_lone_pair_waits_no_longer_than_the_delay() -> None:
    batcher = Batcher(FakeRuntime(), BatchLimits(max_batch=4, max_queue_delay_s=0.05))

    answer = await ask(batcher, 7)

    assert answer.queue_s == pytest.approx(0.05)
    assert answer.infer_s == pytest.approx(1.0)
    assert now() == pytest.approx(1.05)


@on_fake_clock
async def test_a_full_batch_does_not_wait() -> None:
    batcher = Batcher(FakeRuntime(), BatchLimits(max_batch=2, max_queue_delay_s=10))

    await asyncio.gather(ask(batcher, 1), ask(batcher, 2))

    assert now() == pytest.approx(1.0)


@on_fake_clock
async def test_what_comes_during_a_run_forms_the_next_batch() -> None:
    runtime = FakeRuntime()
    batcher = Batcher(runtime, BatchLimits(max_batch=8, max_queue_delay_s=0.0))
    first = ask(batcher, 1)
    await asyncio.sleep(0.5)

    await asyncio.gather(first, ask(batcher, 2), ask(batcher, 3))

    assert runtime.batches == [[1], [2, 3]]
    assert now() == pytest.approx(2.0)


@on_fake_clock
async def test_expired_work_never_reaches_the_runtime_and_is_counted() -> None:
    runtime, counts = FakeRuntime(), Counts()
    batcher = Batcher(runtime, BatchLimits(max_batch=1, max_queue_delay_s=0), counts)
    first = ask(batcher, 1)
    late = ask(batcher, 2, deadline=0.5)
    last = ask(batcher, 3)

    with pytest.raises(DeadlineExceeded):
        await late
    assert now() == pytest.approx(0.5)
    await asyncio.gather(first, last)

    assert runtime.batches == [[1], [3]]
    assert counts.drops == ["expired"]


@on_fake_clock
async def test_a_departed_callers_work_is_dropped_and_counted() -> None:
    runtime, counts = FakeRuntime(), Counts()
    batcher = Batcher(runtime, BatchLimits(max_batch=1, max_queue_delay_s=0), counts)
    first, gone = ask(batcher, 1), ask(batcher, 2)
    await asyncio.sleep(0.1)
    gone.cancel()  # type: ignore[attr-defined]

    await first
    await ask(batcher, 3)

    assert runtime.batches == [[1], [3]]
    assert counts.drops == ["departed"]


@on_fake_clock
async def test_a_departure_during_the_run_disturbs_nobody() -> None:
    batcher = Batcher(FakeRuntime(), BatchLimits(max_batch=2))
    gone, stays = ask(batcher, 1), ask(batcher, 2)
    await asyncio.sleep(0.5)
    gone.cancel()  # type: ignore[attr-defined]

    assert float((await stays).row) == 2.25


@on_fake_clock
async def test_the_queue_is_bounded_by_pairs_and_says_when_to_come_again() -> None:
    batcher = Batcher(FakeRuntime(seconds=2), BatchLimits(max_batch=2, max_queue=4))
    await asyncio.gather(ask(batcher, 0), ask(batcher, 0))  # one pair a second
    accepted = [ask(batcher, level) for level in range(4)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        await batcher.infer(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 1), np.float32))

    assert refused.value.retry_after_s == 2
    assert len(await asyncio.gather(*accepted)) == 4


@on_fake_clock
async def test_the_queue_is_bounded_by_bytes() -> None:
    one = 2 * 2 * 3 + 2 * 2 * 4
    batcher = Batcher(FakeRuntime(), BatchLimits(max_batch=1, max_queue_bytes=2 * one))
    accepted = [ask(batcher, level) for level in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await batcher.infer(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 1), np.float32))

    await asyncio.gather(*accepted)
    assert float((await ask(batcher, 3)).row) == 3.25, "the room is given back"


@on_fake_clock
async def test_a_batch_out_of_memory_is_split_once() -> None:
    runtime, counts = FakeRuntime(), Counts()
    runtime.error = lambda size: OutOfMemory("too large") if size > 2 else None
    batcher = Batcher(runtime, BatchLimits(max_batch=4), counts)

    answers = await asyncio.gather(*(ask(batcher, level) for level in range(4)))

    assert [float(answer.row) for answer in answers] == [0.25, 1.25, 2.25, 3.25]
    assert runtime.batches == [[0, 1, 2, 3], [0, 1], [2, 3]]
    assert counts.failures == []


@on_fake_clock
async def test_a_half_that_is_still_too_large_fails_alone() -> None:
    runtime, counts = FakeRuntime(), Counts()
    calls = iter([True, True, False, False])
    runtime.error = lambda _: OutOfMemory("too large") if next(calls) else None
    batcher = Batcher(runtime, BatchLimits(max_batch=4), counts)

    answers = await asyncio.gather(
        *(ask(batcher, level) for level in range(4)), return_exceptions=True
    )

    assert [isinstance(answer, OutOfMemory) for answer in answers] == [True, True, False, False]
    assert len(counts.failures) == 1


@on_fake_clock
async def test_a_failed_run_fails_its_batch_and_the_next_one_runs() -> None:
    runtime, counts = FakeRuntime(), Counts()
    runtime.error = lambda _: RuntimeFailure("broken") if len(runtime.batches) == 1 else None
    batcher = Batcher(runtime, BatchLimits(max_batch=2), counts)

    answers = await asyncio.gather(
        *(ask(batcher, level) for level in range(4)), return_exceptions=True
    )

    assert [isinstance(answer, RuntimeFailure) for answer in answers] == [True, True, False, False]
    assert len(counts.failures) == 1


@on_fake_clock
async def test_an_unforeseen_error_fails_its_batch_and_the_next_one_runs() -> None:
    runtime, counts = FakeRuntime(), Counts()
    runtime.error = lambda _: ZeroDivisionError() if len(runtime.batches) == 1 else None
    batcher = Batcher(runtime, BatchLimits(max_batch=1), counts)

    first, second = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)

    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, Inferred)
    assert len(counts.failures) == 1


@on_fake_clock
async def test_a_run_that_hangs_is_a_failure() -> None:
    counts = Counts()
    batcher = Batcher(FakeRuntime(seconds=500), BatchLimits(max_run_s=3), counts)

    with pytest.raises(RuntimeFailure, match="longer than 3 s"):
        await ask(batcher, 1)

    assert now() == pytest.approx(3, abs=0.1)
    assert len(counts.failures) == 1


@on_fake_clock
async def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    batcher = Batcher(FakeRuntime(), BatchLimits(max_batch=2, max_queue_delay_s=10))
    accepted = [ask(batcher, level) for level in range(3)]
    await asyncio.sleep(0)

    closing = asyncio.ensure_future(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(NotReady):
        await ask(batcher, 9)
    await closing

    assert [float((await answer).row) for answer in accepted] == [0.25, 1.25, 2.25]
