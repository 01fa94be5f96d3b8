"""Runs side by side, and runs that do not end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.predictor import Pools, RuntimeThreads
from model.runtimes.base import RuntimeFailure
from model.runtimes.echo import EchoRuntime

pytestmark = pytest.mark.anyio

RGB = np.zeros((1, 4, 4, 3), np.uint8)
AUX = np.zeros((1, 4, 4, 1), np.float32)


class Gated(EchoRuntime):
    """A run of a picture that is not black waits until its gate is open."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        if rgb.any():
            self.entered.release()
            assert self.gate.wait(30)
        return super().run(rgb, aux)


@contextmanager
def two_threads(runtime: Gated) -> Iterator[RuntimeThreads]:
    threads = RuntimeThreads(lambda: runtime, "gated", threads=2)
    try:
        yield threads
    finally:
        runtime.gate.set()
        threads.close()


async def entered(runtime: Gated) -> Any:
    return await asyncio.to_thread(runtime.entered.acquire, timeout=30)


async def test_two_runs_go_side_by_side() -> None:
    with two_threads(runtime := Gated()) as threads:
        runs = [asyncio.create_task(threads.infer(RGB + 1, AUX)) for _ in range(2)]
        assert await entered(runtime)
        assert await entered(runtime)
        runtime.gate.set()

        assert len(await asyncio.gather(*runs)) == 2


async def test_a_run_that_was_given_up_hangs_until_it_ends_whatever_others_do() -> None:
    with two_threads(runtime := Gated()) as threads:
        run = asyncio.create_task(threads.infer(RGB + 1, AUX))
        assert await entered(runtime)
        run.cancel()
        await asyncio.wait([run])

        await asyncio.to_thread(threads.run, RGB, AUX)
        assert threads.hangs
        with pytest.raises(RuntimeFailure, match="has not ended"):
            await threads.infer(RGB, AUX)

        runtime.gate.set()
        async with asyncio.timeout(30):
            while threads.hangs:  # noqa: ASYNC110 - a thread tells nobody
                await asyncio.sleep(0.01)
        await threads.infer(RGB, AUX)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_for_pictures_let_those_of_networks_go_first() -> None:
    pools = Pools(1)
    mine = os.getpriority(os.PRIO_PROCESS, 0)

    def own() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    theirs = {pools.decode.submit(own).result(), pools.encode.submit(own).result()}
    pools.close()

    assert theirs == {min(19, mine + 10)}
    assert own() == mine
