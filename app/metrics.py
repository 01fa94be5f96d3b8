"""What Prometheus reads: one registry for each application, so that several do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from app.admission import Admission, Rejected
from app.batching import Dropped
from app.predictor import Predictor

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts and measures; read as text."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "mutualformer_requests",
            "Requests answered, by route and status.",
            ["path", "status"],
            registry=registry,
        )
        self._stages = Histogram(
            "mutualformer_stage_seconds",
            "Time of each stage of a request for inference; `total` from arrival to answer.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "mutualformer_rejected",
            "Requests refused before they were read, by reason.",
            ["reason"],
            registry=registry,
        )
        self._dropped = Counter(
            "mutualformer_dropped_requests",
            "Requests ended because they were late or their client left.",
            ["reason"],
            registry=registry,
        )
        self._dropped_pairs = Counter(
            "mutualformer_dropped_pairs",
            "Pairs taken out of the queue before they ran, by reason.",
            ["model", "reason"],
            registry=registry,
        )
        self._batches = Histogram(
            "mutualformer_batch_size",
            "Pairs of each run.",
            ["model"],
            buckets=_SIZES,
            registry=registry,
        )
        self._runs = Histogram(
            "mutualformer_run_seconds",
            "Time of each run.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "mutualformer_run_failures", "Runs that failed.", ["model"], registry=registry
        )
        self._substituted = Counter(
            "mutualformer_substituted",
            "Pairs answered without one of their pictures.",
            ["model", "modality"],
            registry=registry,
        )
        self._queue = Gauge(
            "mutualformer_queue_pairs",
            "Pairs that wait for a run or are in one.",
            ["model"],
            registry=registry,
        )
        self._model = Gauge(
            "mutualformer_model_info",
            "1 for each bundle being served; its labels say which and where it runs.",
            ["model", "version", "task", "precision", "runtime", "device", "requested_device"],
            registry=registry,
        )
        self._ready = Gauge(
            "mutualformer_ready", "1 while new work is taken, else 0.", registry=registry
        )
        self._house = Gauge(
            "mutualformer_admitted",
            "Work between arrival and answer.",
            ["unit"],
            registry=registry,
        )

    def text(self, *, ready: bool) -> bytes:
        """Every metric in Prometheus' text format."""
        self._ready.set(ready)
        return generate_latest(self._registry)

    def observe(self, admission: Admission) -> None:
        """Show what is in the house."""
        self._house.labels("requests").set_function(lambda: admission.requests)
        self._house.labels("pairs").set_function(lambda: admission.pairs)
        self._house.labels("bytes").set_function(lambda: admission.size_bytes)

    def serves(self, predictor: Predictor, requested_device: str) -> None:
        """Show a bundle, where it runs and its queue."""
        manifest, runtime = predictor.bundle.manifest, predictor.threads.runtime
        self._model.labels(
            manifest.name,
            manifest.version,
            manifest.task,
            manifest.precision,
            runtime.name,
            runtime.device,
            requested_device,
        ).set(1)
        self._queue.labels(manifest.name).set_function(lambda: predictor.batcher.depth)

    def answered(self, path: str, status: int, stages_ms: dict[str, float]) -> None:
        """Count an answer; measure its stages if it was inferred."""
        self._requests.labels(path, str(status)).inc()
        if "infer" in stages_ms:
            for stage, milliseconds in stages_ms.items():
                self._stages.labels(stage).observe(milliseconds / 1000)

    def rejected(self, reason: Rejected | str) -> None:
        """Count a request that was not let in."""
        self._rejected.labels(reason).inc()

    def dropped(self, reason: Dropped) -> None:
        """Count a request that nobody waits for any more."""
        self._dropped.labels(reason).inc()

    def dropped_pair(self, model: str, reason: Dropped) -> None:
        """Count a pair that was taken out of the queue."""
        self._dropped_pairs.labels(model, reason).inc()

    def ran(self, model: str, size: int, seconds: float) -> None:
        """Measure a run."""
        self._batches.labels(model).observe(size)
        self._runs.labels(model).observe(seconds)

    def failed(self, model: str) -> None:
        """Count a failed run."""
        self._failures.labels(model).inc()

    def substituted(self, model: str, modality: str, pairs: int) -> None:
        """Count pairs whose missing picture had a stand-in."""
        self._substituted.labels(model, modality).inc(pairs)
