"""The bundles that one process serves, from start-up to shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import structlog

from app.errors import NotReady, UnknownModel
from app.images import Limits
from app.predictor import Predictor, RuntimeThread
from app.reid import ReIDPredictor
from app.saliency import SaliencyPredictor
from app.settings import Settings
from model.bundle import Bundle, BundleError, find_bundles
from model.runtimes.base import Runtime, RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.tensorrt import TensorRTRuntime

MakeRuntime = Callable[[Bundle, Settings], Runtime]
P = TypeVar("P", bound=Predictor)

_PREDICTORS: dict[str, type[Predictor]] = {
    kind.task: kind for kind in (SaliencyPredictor, ReIDPredictor)
}


def make_runtime(bundle: Bundle, settings: Settings) -> Runtime:
    """The runtime that `settings` ask for.

    Raises:
        RuntimeFailure: it does not load.
    """
    log = structlog.get_logger()
    if settings.runtime == "tensorrt":
        try:
            return TensorRTRuntime(
                bundle.model_path,
                folder=settings.engines,
                report=lambda progress: log.info("engine", model=bundle.manifest.name, at=progress),
            )
        except RuntimeFailure as error:
            if settings.provider_policy == "strict":
                raise
            log.warning("no tensorrt, so onnxruntime", error=str(error))
    return OnnxRuntime(
        bundle.model_path,
        device=settings.device,
        provider_policy=settings.provider_policy,
        threads=settings.threads,
        memory_limit_bytes=settings.gpu_memory_bytes,
    )


class Service:
    """Loads every bundle, then hands out predictors.

    Three truths: the process lives while the event loop answers; it has started once every bundle
    was verified, warmed up and passed its canary; it is ready while it has started, no run failed
    since the last good one, and it is not shutting down.
    """

    def __init__(self, settings: Settings, make_runtime: MakeRuntime = make_runtime) -> None:
        self.settings = settings
        self.phase = "waiting to start"
        """What start-up is doing, for people."""
        self.failure: Exception | None = None
        """What stopped start-up."""
        self.draining = False
        self.settled = asyncio.Event()
        """Set when start-up has succeeded or failed."""
        self._make_runtime = make_runtime
        self._predictors: dict[str, Predictor] = {}
        self._defaults: dict[str, str] = {}
        self._started = False
        self._workers = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="pictures")
        # Two beyond the threads: one pair with the runtime, one ready for it.
        self._room = asyncio.Semaphore(settings.decode_threads + 2)
        self._limits = Limits(settings.max_pixels, settings.min_side)
        self._log = structlog.get_logger()

    async def start(self) -> None:
        """Load without holding up the event loop; a failure ends in `failure`, not here."""
        try:
            await asyncio.to_thread(self.load)
        except Exception as error:  # noqa: BLE001 - whatever it is, start-up is over
            self.failure = error
            self.phase = f"failed: {error}"
            expected = isinstance(error, BundleError | RuntimeFailure)
            self._log.error("start-up failed", error=str(error), exc_info=not expected)
        self.settled.set()

    def load(self) -> None:
        """Open, verify, warm up and test every bundle; blocks.

        Raises:
            BundleError: there is no bundle, or a bad one.
            RuntimeFailure: a network does not load, run, or answer as it did for its exporter.
        """
        settings = self.settings
        self.phase = f"verifying {settings.bundles}"
        bundles = find_bundles(settings.bundles)
        if not bundles:
            raise BundleError(f"{settings.bundles}: no bundle in this folder")
        self._defaults = self._choose_defaults(bundles)
        for bundle in bundles:
            self._load(bundle)
        self._started = True
        self.phase = "started"
        self._log.info("ready", url=f"http://{settings.host}:{settings.port}")

    def default(self, task: Literal["saliency", "reid"]) -> str | None:
        """Name of the bundle that answers when a request names none."""
        return self._defaults.get(task)

    def predictor(self, kind: type[P], name: str | None) -> P:
        """The predictor of the named bundle, or of its task's default one.

        Raises:
            NotReady: start-up is not over, or shutdown has begun.
            UnknownModel: no such bundle serves this task.
        """
        self.check_started()
        if self.draining:
            raise NotReady("shutting down")
        predictor = self._predictors.get(name or self.default(kind.task) or "")
        if not isinstance(predictor, kind):
            named = "" if name is None else f" named {name!r}"
            raise UnknownModel(f"no bundle{named} serves {kind.task}", field="model")
        return predictor

    def predictors(self) -> dict[str, Predictor]:
        """Every predictor by name.

        Raises:
            NotReady: start-up is not over.
        """
        self.check_started()
        return self._predictors

    def check_started(self) -> None:
        """Raise `NotReady` until every bundle is loaded."""
        if not self._started:
            raise NotReady(self.phase)

    async def check_ready(self) -> None:
        """Raise `NotReady` unless requests would be answered.

        After a failed run the canary decides whether that has passed.
        """
        self.check_started()
        if self.draining:
            raise NotReady("shutting down")
        for name, predictor in self._predictors.items():
            if predictor.thread.faulty:
                try:
                    await asyncio.to_thread(predictor.check_canary)
                except RuntimeFailure as error:
                    self._log.error("canary failed", model=name, error=str(error))
                    raise NotReady(f"{name}: its network fails") from error

    def close(self) -> None:
        """Finish running work and free every runtime."""
        self.draining = True
        for predictor in self._predictors.values():
            predictor.thread.close()
        self._workers.shutdown()

    def _choose_defaults(self, bundles: list[Bundle]) -> dict[str, str]:
        """By task: the bundle that the settings name, or the first by name."""
        tasks = {bundle.manifest.name: bundle.manifest.task for bundle in bundles}
        chosen: dict[str, str] = {}
        for name in self.settings.default_models():
            task = tasks.get(name)
            if task is None:
                raise BundleError(
                    f"{self.settings.bundles}: no bundle is named {name!r}; "
                    f"there are {', '.join(tasks)}"
                )
            if task in chosen:
                raise BundleError(f"default_model names {chosen[task]!r} and {name!r} for {task}")
            chosen[task] = name
        for name, task in tasks.items():
            chosen.setdefault(task, name)
        return chosen

    def _load(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.phase = f"loading {manifest.name}"
        thread = RuntimeThread(lambda: self._make_runtime(bundle, self.settings), manifest.name)
        kind = _PREDICTORS[manifest.task]
        predictor = kind(bundle, thread, self._workers, self._limits, self._room)
        self._predictors[manifest.name] = predictor
        self.phase = f"warming up {manifest.name}"
        predictor.check_canary()
        self._log.info(
            "bundle loaded",
            model=manifest.model_id,
            task=manifest.task,
            runtime=thread.runtime.name,
            device=thread.runtime.device,
            requested_device=self.settings.device,
            canary_max_error=predictor.canary_max_error,
        )
        if predictor.fell_back(self.settings.device):
            self._log.warning("not on the device asked for", model=manifest.model_id)
