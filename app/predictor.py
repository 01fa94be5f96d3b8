"""One pair in, one result out: decode, prepare, run, encode, each on the thread it belongs to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.answers import MEDIA_TYPES, describe, encode
from app.errors import InferenceFailed, NotDepth
from app.images import Limits, decode_pair, upscale
from app.schemas import SaliencyOptions
from app.telemetry import StageTimes
from model.bundle import Bundle, load_canary
from model.preprocessing import prepare_depth, prepare_rgb
from model.runtimes.base import Runtime, RuntimeFailure


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    body: bytes
    media_type: str
    model_id: str
    warnings: list[str]
    """What made this pair less useful than it could be."""


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network takes it, and the picture that the answer is drawn on."""

    picture: Image.Image
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    aux: NDArray[np.float32]
    """(H, W, 1) in [0, 1]."""
    warnings: list[str]


class RuntimeThread:
    """The one thread that calls a runtime, one pair at a time.

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

    async def infer(
        self, rgb: NDArray[np.uint8], aux: NDArray[np.float32], times: StageTimes
    ) -> NDArray[np.float32]:
        """Answer one pair: (H, W, 3) and (H, W, 1) in, one row of the runtime's output out."""
        submitted = time.perf_counter()

        def run() -> NDArray[np.float32]:
            times.record("queue", time.perf_counter() - submitted)
            with times.stage("infer"):
                (row,) = self._run(rgb[None], aux[None])
                return np.asarray(row)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch and wait for it; not for the event loop."""
        return self._thread.submit(self._run, rgb, aux).result()

    def close(self) -> None:
        """Finish what was submitted, then free the runtime."""
        self._thread.submit(self.runtime.close).result()
        self._thread.shutdown()

    def _run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
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
    """Serves one bundle."""

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

    async def saliency(
        self, rgb: bytes, depth: bytes, options: SaliencyOptions, times: StageTimes
    ) -> Answer:
        """Answer the saliency of one pair of encoded pictures.

        Raises:
            BadPicture: a picture cannot be used.
            InferenceFailed: the runtime failed.
        """
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        async with self._room:
            times.record("wait", time.perf_counter() - arrived)
            pair = await loop.run_in_executor(
                self._workers, self._prepare, rgb, depth, options, times
            )
            try:
                saliency = await self.thread.infer(pair.rgb, pair.aux, times)
            except RuntimeFailure as error:
                raise InferenceFailed("the network failed on this pair") from error
            return await loop.run_in_executor(
                self._workers, self._encode, saliency, pair, options, times
            )

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
        tolerance = self._canary_tolerance()
        if self.canary_max_error > tolerance:
            self.thread.faulty = True
            raise RuntimeFailure(
                f"{self.bundle.path}: the canary's answers differ from the exporter's by "
                f"{self.canary_max_error:.2g}, more than {tolerance}"
            )
        return self.canary_max_error

    def _canary_tolerance(self) -> float:
        # float32 on CPUs of other vector widths differs by about 1e-5; TF32, which GPUs use for
        # float32 convolutions, and 16-bit graphs have 10 bits of mantissa.
        exact = self.thread.runtime.device == "cpu" and self.bundle.manifest.precision == "fp32"
        return 1e-3 if exact else 2e-2

    def _prepare(
        self, rgb: bytes, depth: bytes, options: SaliencyOptions, times: StageTimes
    ) -> PreparedPair:
        with times.stage("decode"):
            pair = decode_pair(rgb, depth, self._limits, resize=options.resize)
        with times.stage("preprocess"):
            size = self.bundle.manifest.input_size
            if options.depth_convention == "metric" and not np.greater(pair.depth, 0).any():
                raise NotDepth(
                    "no value is above 0, and metric depth reads 0 as missing", field="depth"
                )
            aux = prepare_depth(pair.depth, options.depth_convention, size)
            warnings = list(pair.warnings)
            if aux.min() == aux.max():
                warnings.append("depth is constant")
            return PreparedPair(pair.rgb, prepare_rgb(pair.rgb, size), aux, warnings)

    def _encode(
        self,
        saliency: NDArray[np.float32],
        pair: PreparedPair,
        options: SaliencyOptions,
        times: StageTimes,
    ) -> Answer:
        timings_ms = times.milliseconds()
        with times.stage("encode"):
            if options.size == "original":
                saliency = upscale(saliency, pair.picture.size)
            model_id = self.bundle.manifest.model_id
            if options.output == "json":
                report = describe(
                    saliency,
                    model_id=model_id,
                    depth_convention=options.depth_convention,
                    threshold=options.threshold,
                    warnings=pair.warnings,
                    timings_ms=timings_ms,
                )
                body = report.model_dump_json().encode()
            else:
                body = encode(options.output, saliency, pair.picture, options.threshold)
            return Answer(body, MEDIA_TYPES[options.output], model_id, pair.warnings)
