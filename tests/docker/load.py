"""Clients that keep a service busy, and what became of each of their requests."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.docker.engine import ROOT

EXAMPLES = ROOT / "examples"
REFUSED = "refused"
"""There was no connection, so nothing was accepted."""
LOST = "lost"
"""A connection was there, an answer was not."""


def saliency_form(name: str = "vase") -> dict[str, bytes]:
    """One of the example pairs."""
    return {
        "rgb": (EXAMPLES / f"{name}_rgb.jpg").read_bytes(),
        "depth": (EXAMPLES / f"{name}_depth.png").read_bytes(),
    }


def reid_form(name: str = "van_a") -> dict[str, bytes]:
    """One of the example crops."""
    return {
        "rgb": (EXAMPLES / f"{name}_rgb.jpg").read_bytes(),
        "nir": (EXAMPLES / f"{name}_nir.png").read_bytes(),
    }


class Load:
    """What became of the requests so far: how many by status, `REFUSED` or `LOST`."""

    def __init__(self) -> None:
        self.outcomes: Counter[int | str] = Counter()
        self._lock = threading.Lock()

    def note(self, outcome: int | str) -> None:
        """Count one request."""
        with self._lock:
            self.outcomes[outcome] += 1


@contextmanager
def load(
    address: str, clients: int = 4, *, headers: dict[str, str] | None = None
) -> Iterator[Load]:
    """Post the vase, one request after the other and each on a connection of its own, meanwhile."""
    seen, stop, form = Load(), threading.Event(), saliency_form()

    def post() -> None:
        while not stop.is_set():
            try:
                url = f"{address}/v1/saliency"
                answer = httpx.post(url, files=form, headers=headers, timeout=60)
                seen.note(answer.status_code)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                seen.note(REFUSED)
                time.sleep(0.1)
            except httpx.TransportError:
                seen.note(LOST)

    threads = [threading.Thread(target=post, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(90)


def write_tiny_bundle(folder: Path) -> None:
    """A bundle whose network is `EchoRuntime`, readable by everyone."""
    from tests.app.tiny import write_bundle

    write_bundle(folder / "tiny")
    for path in (folder, folder / "tiny"):
        path.chmod(0o755)
