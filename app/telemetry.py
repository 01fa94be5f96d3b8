"""How long each stage of a request took, and logs as one JSON object a line."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


class StageTimes:
    """Travels with one request; a stage that several of its batches enter adds up."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._lock = threading.Lock()  # batches of one request are prepared side by side
        self._stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.record(name, time.perf_counter() - start)

    def record(self, name: str, seconds: float) -> None:
        """Note the duration of a stage that was timed elsewhere."""
        with self._lock:
            self._stages_ms[name] = self._stages_ms.get(name, 0.0) + 1000 * seconds

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
        return ", ".join(f"{name};dur={value:g}" for name, value in self.milliseconds().items())


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
