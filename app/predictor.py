"""Pictures in, one result out: decode, prepare, run, encode, each on the thread it belongs to."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from app import protocol
from app.batching import Batcher
from app.errors import BadRequest, InferenceFailed, NotReady
from app.images import Limits, PixelBudget
from app.schemas import InferRequest
from app.telemetry import StageTimes
from model.bundle import Bundle, load_canary
from model.runtimes.base import Runtime, RuntimeFailure

Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]
Rows = NDArray[np.float32]
"""What a runtime answers: one row for each pair."""
T = TypeVar("T")

_NICENESS = 10
"""Of threads for pictures: a tenth of the weight of a network's, on Linux."""
_CLOSE_S = 10.0
"""Longest that a runtime may take to free itself."""


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    body: bytes
    media_type: str
    model_id: str
    warnings: list[str]
    """What made this request less useful than it could be."""
    substituted: str | None = None
    """The modality that was not sent and for which zeros stood in."""


class Pools:
    """Threads for pictures, apart so that answers are not held up by what still comes in.

    Where processors are scarce they wait for the threads of networks, which everyone waits for.

    Args:
        threads: in each of the two pools; so many pictures are decoded at once.
    """

    def __init__(self, threads: int) -> None:
        self.decode = ThreadPoolExecutor(threads, "decode", _yield_to_networks)
        self.encode = ThreadPoolExecutor(threads, "encode", _yield_to_networks)

    def close(self) -> None:
        """Finish what was submitted."""
        self.decode.shutdown()
        self.encode.shutdown()


class RuntimeThreads:
    """The threads that call a runtime, each with one batch at a time.

    Args:
        open_runtime: called on one of them.
        name: of its bundle.
        threads: how many; more than one only for a runtime that may be called by several at once.
    """

    def __init__(self, open_runtime: Callable[[], Runtime], name: str, threads: int = 1) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"runtime-{name}")
        self._running: set[object] = set()
        self._given_up: set[object] = set()
        try:
            self.runtime = self._threads.submit(open_runtime).result()
        except BaseException:
            self._threads.shutdown()
            raise

    @property
    def hangs(self) -> bool:
        """Whether a run was given up on and has not ended since."""
        return not self._given_up.isdisjoint(self._running)

    async def infer(self, rgb: Rgb, aux: Aux) -> Rows:
        """Answer a batch: (B, H, W, 3) and (B, H, W, 1) in, a row for each pair out."""
        if self.hangs:
            raise RuntimeFailure("an earlier run has not ended")
        loop, run = asyncio.get_running_loop(), object()
        try:
            return await loop.run_in_executor(self._threads, self._run, rgb, aux, run)
        except asyncio.CancelledError:
            self._given_up = {run, *self._given_up} & self._running
            raise

    def run(self, rgb: Rgb, aux: Aux, *, timeout_s: float | None = None) -> Rows:
        """Run a batch and wait for it; not for the event loop.

        Raises:
            RuntimeFailure: the run failed, or did not end in time.
        """
        return self._result(self._threads.submit(self._run, rgb, aux, object()), timeout_s)

    def close(self) -> None:
        """Finish what was submitted, then free the runtime; leave a runtime that hangs."""
        try:
            if not self.hangs:
                self._result(self._threads.submit(self.runtime.close), _CLOSE_S)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[T], timeout_s: float | None) -> T:
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            future.cancel()
            raise RuntimeFailure(f"no end after {timeout_s:g} s") from error

    def _run(self, rgb: Rgb, aux: Aux, run: object) -> Rows:
        self._running.add(run)
        try:
            output = self.runtime.run(rgb, aux)
        finally:
            self._running.discard(run)
        if not np.isfinite(output).all():
            raise RuntimeFailure("the network answered values that are not finite")
        return output


class Predictor:
    """Serves one bundle; each task derives its own from this."""

    task: ClassVar[Literal["saliency", "reid"]]

    def __init__(
        self,
        bundle: Bundle,
        threads: RuntimeThreads,
        batcher: Batcher,
        pools: Pools,
        limits: Limits,
        max_request_pixels: int,
    ) -> None:
        self.bundle = bundle
        self.threads = threads
        self.batcher = batcher
        self.canary_max_error = 0.0
        """Error of the last `check_canary`."""
        self.faulty = False
        """Whether a run failed since the canary last passed."""
        self._pools = pools
        self._limits = limits
        self._max_request_pixels = max_request_pixels

    @property
    def pair_bytes(self) -> int:
        """Bytes that a prepared pair takes while it waits."""
        height, width = self.bundle.manifest.input_size
        return height * width * (3 + 4)

    def _request_limits(self) -> Limits:
        """The limits of one request's pictures, which share one budget of pixels."""
        return replace(self._limits, budget=PixelBudget(self._max_request_pixels))

    def stand_in(self, field: str) -> Aux:
        """What stands in for the partner of a colour picture: 0, as missing pixels in training.

        Raises:
            BadRequest: the bundle's policy is to do without none; `field` is missing.
        """
        if self.bundle.manifest.modality_policy == "reject":
            raise BadRequest(f"form field {field!r} is missing", field=field)
        return np.zeros((*self.bundle.manifest.input_size, 1), np.float32)

    def fell_back(self, device: str) -> bool:
        """Whether the network runs elsewhere than on the `device` that was asked for."""
        return not self.threads.runtime.device.startswith(device)

    async def _in_decode_thread(self, prepare: Callable[[], T], times: StageTimes) -> T:
        """Decode and prepare pictures where that is done, once a thread is free.

        A caller that is cancelled before then has nothing done.
        """
        return await _run_in(self._pools.decode, prepare, times)

    async def _in_encode_thread(self, write: Callable[[], T]) -> T:
        """Write an answer where that is done."""
        return await _run_in(self._pools.encode, write)

    async def _infer(self, rgb: Rgb, aux: Aux, times: StageTimes) -> Rows:
        """The row of one pair: (H, W, 3) and (H, W, 1).

        Raises:
            DeadlineExceeded: the request's deadline passed.
            Overloaded: the queue is full; admission should have said so first.
            InferenceFailed: the runtime failed.
        """
        try:
            inferred = await self.batcher.infer(rgb, aux, deadline=times.deadline)
        except RuntimeFailure as error:
            raise InferenceFailed("the network failed on this request") from error
        times.waited("queue", inferred.queue_s, ended_s=inferred.infer_s)
        times.ran(inferred.batch, inferred.batch_size, inferred.infer_s)
        return inferred.row

    async def tensors(
        self, body: bytes, json_size: str | None, hold: Callable[[int], None], times: StageTimes
    ) -> tuple[bytes, int | None]:
        """Answer a request of the Open Inference Protocol; see `app.protocol`.

        Args:
            body: as it came.
            json_size: of the JSON before raw tensors, as the header says it.
            hold: takes room for so many pairs.
            times: of the request.

        Raises:
            BadRequest: its tensors are not those of this bundle.
        """
        manifest = self.bundle.manifest

        def read() -> tuple[InferRequest, Rgb, Aux]:
            with times.stage("decode"):
                return protocol.read(body, json_size, manifest)

        def write() -> tuple[bytes, int | None]:
            with times.stage("encode"):
                return protocol.write(request, manifest, np.stack(rows))

        request, rgb, aux = await self._in_decode_thread(read, times)
        hold(len(rgb))
        rows = await in_order(self._infer(*pair, times) for pair in zip(rgb, aux, strict=True))
        return await self._in_encode_thread(write)

    def check_healthy(self) -> None:
        """Raise `NotReady` if the last run failed and the canary has not passed since."""
        if self.faulty:
            raise NotReady(f"{self.bundle.manifest.name}: its network fails")

    def warm_up(self) -> None:
        """Run every batch size from 1 up to the largest, doubling, and check its answers; blocks.

        Raises:
            RuntimeFailure: as `check_canary`.
        """
        size, largest = 1, self.batcher.limits.max_batch
        while size < largest:
            self.check_canary(size)
            size *= 2
        self.check_canary(largest)

    def check_canary(self, size: int | None = None, *, timeout_s: float | None = None) -> float:
        """Run the exporter's inputs and compare with its outputs; blocks.

        Args:
            size: pairs of the run, the exporter's in turn; by default each of them once.
            timeout_s: a run that takes longer has failed.

        Returns:
            The largest absolute error, also kept in `canary_max_error`.

        Raises:
            RuntimeFailure: the runtime fails, or its answers are not the exporter's.
        """
        rgb, aux, expected = load_canary(self.bundle)
        if size is None:
            size = min(len(rgb), self.batcher.limits.max_batch)
        turns = np.arange(size) % len(rgb)
        rgb, aux, expected = rgb[turns], aux[turns], expected[turns]
        self.faulty = True  # until proven otherwise
        output = self.threads.run(rgb, aux, timeout_s=timeout_s)
        if output.shape != expected.shape:
            raise RuntimeFailure(
                f"{self.bundle.path}: the canary answers {output.shape}, expected {expected.shape}"
            )
        self.canary_max_error = float(np.abs(output - expected).max())
        tolerance = self.bundle.canary_tolerance
        if self.canary_max_error > tolerance:
            raise RuntimeFailure(
                f"{self.bundle.path}: the canary's answers differ from the exporter's by "
                f"{self.canary_max_error:.2g}, more than {tolerance}"
            )
        self.faulty = False
        return self.canary_max_error


def _yield_to_networks() -> None:
    """Lower the calling thread's priority, where a thread has one of its own."""
    if sys.platform == "linux":
        os.nice(_NICENESS)  # there, of the thread alone


async def in_order(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do everything side by side; of several errors, raise the first in order and end the rest."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_in(pool: Executor, work: Callable[[], T], times: StageTimes | None = None) -> T:
    submitted = time.perf_counter()

    def timed() -> T:
        if times is not None:
            times.waited("wait", time.perf_counter() - submitted)
        return work()

    return await asyncio.get_running_loop().run_in_executor(pool, timed)
