"""In a container, the service with the network of `tests.app.faulty_server`; address by settings.

`python3 -m tests.docker.faulty_service {raise,nan,hang,slow}`.
"""

from __future__ import annotations

import socket
import sys

from app.server import serve
from app.settings import Settings
from app.telemetry import configure_logging
from tests.app.faulty_server import Fragile

if __name__ == "__main__":
    fault = sys.argv[1]
    settings = Settings()
    log_config = configure_logging(settings.log_level)
    with socket.create_server((settings.host, settings.port), backlog=2048) as listener:
        serve(settings, listener, log_config, lambda _bundle, _settings: Fragile(fault))
