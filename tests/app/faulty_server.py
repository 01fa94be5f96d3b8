"""A server whose network is sound until a picture of one colour breaks it for good.

`python -m tests.app.faulty_server {raise,nan,hang,slow,sound} PORT`; settings come from the
environment. `slow` never breaks, but takes 0.2 s for a batch; `sound` never breaks. Runs in the
image, too, so it imports nothing but what a service needs.
"""

from __future__ import annotations

import socket
import sys
import time

import numpy as np
from numpy.typing import NDArray

from app.server import serve
from app.settings import Settings
from app.telemetry import configure_logging
from model.runtimes.base import RuntimeFailure
from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime

POISON = 77
"""Level of every channel of the picture that breaks the network."""


class Fragile(EchoRuntime):
    """Breaks in the way that it is told."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.broken = False

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Runtime.run`."""
        if self.fault in ("slow", "sound"):
            time.sleep(0.2 if self.fault == "slow" else 0)
            return super().run(rgb, aux)
        self.broken |= any((row == POISON).all() for row in rgb)
        if self.broken and self.fault == "raise":
            raise RuntimeFailure("the device is gone")
        if self.broken and self.fault == "hang":
            time.sleep(1e6)
        output = super().run(rgb, aux)
        return output * np.float32(np.nan) if self.broken else output


if __name__ == "__main__":
    _, fault, port = sys.argv
    settings = Settings()
    log_config = configure_logging(settings.log_level)
    with socket.create_server(("127.0.0.1", int(port)), backlog=2048) as listener:
        serve(
            settings,
            listener,
            log_config,
            lambda bundle, _settings: (
                EchoEmbeddingRuntime() if bundle.manifest.task == "reid" else Fragile(fault)
            ),
        )
