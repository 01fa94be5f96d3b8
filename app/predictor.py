"""Pictures in, one result out: decode, prepare, run, encode, each on the thread it belongs to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import InferenceFailed
from app.images import Limits
from app.telemetry import StageTimes
from model.bundle import Bundle, load_canary
from model.runtimes.base import Runtime, RuntimeFailure

Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]
Rows = NDArray[np.float32]
"""What a runtime answers: one row for each pair."""


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    body: bytes
    media_type: str
    model_id: str
    warnings: list[str]
    """What made this request less useful than it could be."""


class Prepared(Protocol):
    """Pairs as the network takes them, and whatever else their answer needs."""

    @property
    def rgb(self) -> Rgb:
        """(B, H, W, 3)."""
        ...

    @property
    def aux(self) -> Aux:
        """(B, H, W, 1) in [0, 1]."""
        ...


P = TypeVar("P", bound=Prepared)
A = TypeVar("A")


class RuntimeThread:
    """The one thread that calls a runtime, one batch at a time.

    A batcher goes between `Predictor` and this class, with the same `infer`.
    """

    def __init__(self, open_runtime: Callable[[], Runtime], name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"runtime-{name}")
        try:
            self.runtime = self._thread.submit(open_runtime).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self.faulty = False
        """Whether the last run failed."""

    async def infer(self, rgb: Rgb, aux: Aux, times: StageTimes) -> Rows:
        """Answer a batch: (B, H, W, 3) and (B, H, W, 1) in, a row for each pair out."""
        submitted = time.perf_counter()

        def run() -> Rows:
            times.record("queue", time.perf_counter() - submitted)
            with times.stage("infer"):
                return self._run(rgb, aux)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def run(self, rgb: Rgb, aux: Aux) -> Rows:
        """Run a batch and wait for it; not for the event loop."""
        return self._thread.submit(self._run, rgb, aux).result()

    def close(self) -> None:
        """Finish what was submitted, then free the runtime."""
        self._thread.submit(self.runtime.close).result()
        self._thread.shutdown()

    def _run(self, rgb: Rgb, aux: Aux) -> Rows:
        try:
            output = self.runtime.run(rgb, aux)
            if not np.isfinite(output).all():
                raise RuntimeFailure("the network answered values that are not finite")
        except RuntimeFailure:
            self.faulty = True
            raise
        self.faulty = False
        return output


class Predictor:
    """Serves one bundle; each task derives its own from this."""

    task: ClassVar[Literal["saliency", "reid"]]

    def __init__(
        self,
        bundle: Bundle,
        thread: RuntimeThread,
        workers: Executor,
        limits: Limits,
        room: asyncio.Semaphore,
    ) -> None:
        self.bundle = bundle
        self.thread = thread
        self.canary_max_error = 0.0
        """Error of the last `check_canary`."""
        self._workers = workers
        self._limits = limits
        # Decoded pictures are large: pairs without a place here wait as the bytes they came in.
        self._room = room

    def fell_back(self, device: str) -> bool:
        """Whether the network runs elsewhere than on the `device` that was asked for."""
        return not self.thread.runtime.device.startswith(device)

    async def _answer(
        self, prepare: Callable[[], P], encode: Callable[[Rows, P], A], times: StageTimes
    ) -> A:
        """Take one batch from encoded pictures to its answer.

        Args:
            prepare: decodes and prepares; in a worker thread.
            encode: makes the answer of the network's rows; in a worker thread.
            times: of the request.

        Raises:
            BadPicture: a picture cannot be used.
            InferenceFailed: the runtime failed.
        """
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        async with self._room:
            times.record("wait", time.perf_counter() - arrived)
            prepared = await loop.run_in_executor(self._workers, prepare)
            try:
                rows = await self.thread.infer(prepared.rgb, prepared.aux, times)
            except RuntimeFailure as error:
                raise InferenceFailed("the network failed on this request") from error
            return await loop.run_in_executor(self._workers, encode, rows, prepared)

    def check_canary(self) -> float:
        """Run the exporter's inputs and compare with its outputs; blocks.

        Returns:
            The largest absolute error, also kept in `canary_max_error`.

        Raises:
            RuntimeFailure: the runtime fails, or its answers are not the exporter's.
        """
        rgb, aux, expected = load_canary(self.bundle)
        output = self.thread.run(rgb, aux)
        if output.shape != expected.shape:
            raise RuntimeFailure(
                f"{self.bundle.path}: the canary answers {output.shape}, expected {expected.shape}"
            )
        self.canary_max_error = float(np.abs(output - expected).max())
        tolerance = self.bundle.canary_tolerance
        if self.canary_max_error > tolerance:
            self.thread.faulty = True
            raise RuntimeFailure(
                f"{self.bundle.path}: the canary's answers differ from the exporter's by "
                f"{self.canary_max_error:.2g}, more than {tolerance}"
            )
        return self.canary_max_error
