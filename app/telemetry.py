"""When a request is due, how long each of its stages took, and logs as JSON lines."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import get_current

_tracer = trace.get_tracer("mutualformer")


class StageTimes:
    """Travels with one request, whose pairs pass the same stages side by side.

    Work adds up over pairs, waiting counts as the longest of any, a batch counts once. Where
    OpenTelemetry records the request, each stage of each pair becomes a span below its own.

    Args:
        deadline: in the event loop's time; later the answer is of no use.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.batch_size = 0
        """Pairs in the largest batch so far, other requests' too."""
        self._start = time.perf_counter()
        self._lock = threading.Lock()  # pairs of one request are prepared side by side
        self._stages_ms: dict[str, float] = {}
        self._batches: set[int] = set()
        self._parent = get_current() if trace.get_current_span().is_recording() else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.record(name, time.perf_counter() - start)

    def record(self, name: str, seconds: float) -> None:
        """Add the duration of work that has just ended and was timed elsewhere."""
        self._span(name, seconds)
        self._add(name, seconds)

    def waited(self, name: str, seconds: float, *, ended_s: float = 0.0) -> None:
        """Note a wait that ended so many seconds ago; of several, the longest counts."""
        self._span(name, seconds, ended_s)
        with self._lock:
            self._stages_ms[name] = max(self._stages_ms.get(name, 0.0), 1000 * seconds)

    def ran(self, batch: int, size: int, seconds: float) -> None:
        """Note the run of a batch, identified by a number, that held a pair of this request."""
        if batch not in self._batches:
            self._batches.add(batch)
            self.batch_size = max(self.batch_size, size)
            self._span("infer", seconds, pairs=size)
            self._add("infer", seconds)

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._stages_ms[name] = self._stages_ms.get(name, 0.0) + 1000 * seconds

    def _span(self, name: str, seconds: float, ended_s: float = 0.0, **attributes: int) -> None:
        if self._parent is None:
            return
        end_ns = time.time_ns() - int(1e9 * ended_s)
        start_ns = end_ns - int(1e9 * seconds)
        span = _tracer.start_span(
            name, self._parent, start_time=start_ns, attributes=attributes or None
        )
        span.end(end_ns)

    def elapsed(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self._start

    def milliseconds(self) -> dict[str, float]:
        """Stages so far, with `total` last; milliseconds."""
        with self._lock:
            stages_ms = dict(self._stages_ms)
        times = {**stages_ms, "total": 1000 * self.elapsed()}
        return {name: round(value, 3) for name, value in times.items()}

    def server_timing(self) -> str:
        """The value of a `Server-Timing` header."""
        batch = {"infer": f';desc="batch of {self.batch_size}"'} if self.batch_size else {}
        return ", ".join(
            f"{name};dur={value:g}{batch.get(name, '')}"
            for name, value in self.milliseconds().items()
        )


def configure_logging(level: str) -> dict[str, Any]:
    """Write every log line, ours and the server's, to standard error as JSON.

    Returns:
        The `log_config` for uvicorn.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder(allow=["logger"])],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    structlog.processors.EventRenamer("message"),
                    structlog.processors.JSONRenderer(),
                ],
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"handlers": ["stderr"], "level": level.upper()},
    }
