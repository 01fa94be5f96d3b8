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
from app.keys import ApiKeys, KeyFileError
from app.metrics import Metrics
from app.predictor import Pools, Predictor, RuntimeThreads
from app.reid import MAX_PAIRS, ReIDPredictor
from app.saliency import SaliencyPredictor
from app.settings import Settings
from model.bundle import Bundle, BundleError, find_bundles
from model.runtimes.base import Runtime, RuntimeFailure
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.tensorrt import TensorRTRuntime

FAULTY_EXIT_CODE = 70
"""Of a process that ends because a network failed for good; start another one."""

_CHANCES = 3
"""Canary runs before a network that failed is given up."""
_PAUSE_S = 1.0
"""Between them."""

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
    was verified, warmed up and passed its canary; it is ready while it has started, it is not
    shutting down, and no run failed since the canary last passed. A network whose canary goes on
    failing ends the process.
    """

    def __init__(self, settings: Settings, make_runtime: MakeRuntime = make_runtime) -> None:
        self.settings = settings
        self.phase = "waiting to start"
        """What start-up is doing, for people."""
        self.failure: Exception | None = None
        """What stopped start-up, or made the process useless."""
        self.faulty = False
        """Whether a network failed for good: only a new process can help."""
        self.on_fault: Callable[[], None] = lambda: None
        """Called once when a network has failed for good."""
        self.last_arrival = 0.0
        """When the latest request came, probes aside, in the event loop's time."""
        self.metrics = Metrics()
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
            ),
            self.metrics.rejected,
        )
        self.metrics.observe(self.admission)
        self.keys: ApiKeys | None = None
        """Who may ask; everyone if none. Read before anything is served."""
        self._judging: dict[str, asyncio.Task[None]] = {}
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
            known = BundleError | KeyFileError | RuntimeFailure | OSError
            expected = isinstance(error, known)
            self._log.error("start-up failed", error=str(error), exc_info=not expected)
        self.settled.set()

    def load(self) -> None:
        """Open, verify, warm up and test every bundle; blocks.

        Raises:
            BundleError: there is no bundle, or a bad one.
            KeyFileError: the API keys cannot be read.
            RuntimeFailure: a network does not load, run, or answer as it did for its exporter.
        """
        settings = self.settings
        if settings.api_keys_file is not None:
            self.keys = ApiKeys.read(settings.api_keys_file)
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

    @property
    def ready(self) -> bool:
        """Whether new work is taken by every bundle."""
        healthy = not any(predictor.faulty for predictor in self._predictors.values())
        return self._started and not self.draining and healthy

    def check_accepting(self) -> None:
        """Raise `NotReady` unless new work may begin."""
        self.check_started()
        if self.draining:
            raise NotReady("its network fails" if self.faulty else "shutting down")

    def check_ready(self) -> None:
        """Raise `NotReady` unless requests to every bundle would be answered."""
        self.check_accepting()
        for predictor in self._predictors.values():
            predictor.check_healthy()

    def distrust(self, name: str, error: Exception) -> None:
        """Take no more work for a bundle whose network failed, until its canary passes.

        If it does not pass in time, the process drains and ends.
        """
        self._log.error("a run failed", model=name, error=repr(error))
        self.metrics.failed(name)
        self._predictors[name].faulty = True
        if name not in self._judging:
            self._judging[name] = asyncio.create_task(self._judge(name))

    async def _judge(self, name: str) -> None:
        """Give a network a few chances to answer its canary as it did for its exporter."""
        predictor, limit_s = self._predictors[name], self.settings.max_run_s
        for attempt in range(_CHANCES):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            try:
                await asyncio.to_thread(predictor.check_canary, timeout_s=limit_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the network is not well
                self._log.error("canary failed", model=name, error=repr(error))
                self.phase = f"{name}: its network fails: {error}"
            else:
                self._log.info("canary passed", model=name)
                del self._judging[name]
                return
            if predictor.threads.hangs:
                break
        self.failure = RuntimeFailure(self.phase)
        self.faulty = self.draining = True
        self.on_fault()

    async def close(self) -> None:
        """Finish running work and free every runtime, but for those that hang."""
        self.draining = True
        for judging in self._judging.values():
            judging.cancel()
        for name, predictor in self._predictors.items():
            await predictor.batcher.close()
            try:
                await asyncio.to_thread(predictor.threads.close)
            except RuntimeFailure as error:
                self._log.error("runtime does not close", model=name, error=str(error))
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
        settings = self.settings
        threads = RuntimeThreads(
            lambda: self._make_runtime(bundle, settings), manifest.name, settings.parallel_runs
        )
        kind = _PREDICTORS[manifest.task]
        batcher = Batcher(
            threads.infer,
            BatchLimits(
                max_batch=settings.max_batch,
                max_queue_delay_s=settings.max_queue_delay_ms / 1000,
                # Admission bounds what comes here; a lone request may be larger than its bounds.
                max_queue=max(settings.max_queue, MAX_PAIRS),
                max_queue_bytes=settings.max_queue_bytes + settings.max_upload_bytes,
                max_run_s=settings.max_run_s,
                max_runs=settings.parallel_runs,
            ),
            _Watch(self, manifest.name),
        )
        predictor = kind(
            bundle, threads, batcher, self._pools, self._limits, settings.max_request_pixels
        )
        self._predictors[manifest.name] = predictor
        self.phase = f"warming up {manifest.name}"
        predictor.warm_up()
        predictor.check_canary()
        self.metrics.serves(predictor, settings.device)
        self._log.info(
            "bundle loaded",
            model=manifest.model_id,
            task=manifest.task,
            runtime=threads.runtime.name,
            device=threads.runtime.device,
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

    def ran(self, size: int, seconds: float) -> None:
        """Measure it."""
        self._service.metrics.ran(self._name, size, seconds)

    def dropped(self, reason: Dropped) -> None:
        """Count it."""
        self._service.metrics.dropped_pair(self._name, reason)

    def failed(self, error: Exception) -> None:
        """The network is not trusted until its canary passes."""
        self._service.distrust(self._name, error)
