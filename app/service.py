"""The bundles that one process serves, from start-up to shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, TypeVar

import structlog

from app.admission import Admission, AdmissionLimits
from app.batching import Batcher, BatchLimits, Dropped, Watch
from app.errors import NotReady, UnknownModel
from app.images import Limits
from app.predictor import Pools, Predictor, RuntimeThread
from app.reid import MAX_PAIRS, ReIDPredictor
from app.saliency import SaliencyPredictor
from app.settings import Settings
from model.bundle import Bundle, BundleError, find_bundles
from model.runtimes.base import Runtime, RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime

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
    return OnnxRuntime(
        bundle.model_path,
        device=settings.device,
        provider_policy=settings.provider_policy,
        threads=settings.threads,
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
        self.admission = Admission(
            AdmissionLimits(
                max_pairs=settings.max_queue,
                busy_pairs=max(1, min(settings.max_batch, settings.max_queue // 2)),
                max_bytes=settings.max_queue_bytes,
            )
        )
        self._pools = Pools(settings.decode_threads)
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
            NotReady: its network failed, and the canary has not passed since.
        """
        self.check_accepting()
        predictor = self._predictors.get(name or self.default(kind.task) or "")
        if not isinstance(predictor, kind):
            named = "" if name is None else f" named {name!r}"
            raise UnknownModel(f"no bundle{named} serves {kind.task}", field="model")
        predictor.check_healthy()
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

    def check_accepting(self) -> None:
        """Raise `NotReady` unless new work may begin."""
        self.check_started()
        if self.draining:
            raise NotReady("shutting down")

    def dropped(self, reason: Dropped) -> None:
        """Note work that was ended because nobody waits for its answer any more."""

    async def check_ready(self) -> None:
        """Raise `NotReady` unless requests would be answered.

        After a failed run the canary decides whether that has passed.
        """
        self.check_accepting()
        for name, predictor in self._predictors.items():
            if predictor.faulty:
                try:
                    await asyncio.to_thread(predictor.check_canary)
                except RuntimeFailure as error:
                    self._log.error("canary failed", model=name, error=str(error))
                    raise NotReady(f"{name}: its network fails") from error

    def distrust(self, name: str, error: Exception) -> None:
        """Take no more work for a bundle whose network failed, until its canary passes."""
        self._log.error("a run failed", model=name, error=repr(error))
        self._predictors[name].faulty = True

    async def close(self) -> None:
        """Finish running work and free every runtime."""
        self.draining = True
        for predictor in self._predictors.values():
            await predictor.batcher.close()
            await asyncio.to_thread(predictor.thread.close)
        await asyncio.to_thread(self._pools.close)

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
        settings = self.settings
        batcher = Batcher(
            thread.infer,
            BatchLimits(
                max_batch=settings.max_batch,
                max_queue_delay_s=settings.max_queue_delay_ms / 1000,
                # Admission bounds what comes here; a lone request may be larger than its bounds.
                max_queue=max(settings.max_queue, MAX_PAIRS),
                max_queue_bytes=settings.max_queue_bytes + settings.max_upload_bytes,
                max_run_s=settings.max_run_s,
            ),
            _Watch(self, manifest.name),
        )
        predictor = kind(
            bundle, thread, batcher, self._pools, self._limits, settings.max_request_pixels
        )
        self._predictors[manifest.name] = predictor
        self.phase = f"warming up {manifest.name}"
        predictor.warm_up()
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


class _Watch(Watch):
    """Tells the service of one bundle's batches."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name

    def failed(self, error: Exception) -> None:
        """The network is not trusted until its canary passes."""
        self._service.distrust(self._name, error)
