"""One application on one port: start, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

import structlog
import uvicorn

from app.main import create_app
from app.service import FAULTY_EXIT_CODE, MakeRuntime, Service, make_runtime
from app.settings import Settings

_QUIET_S = 0.5
"""Time without a request after which the port is closed: whoever comes before is told to go."""
_LONGEST_LINGER_S = 5.0
"""The port is closed so long after the last answer even if requests do not cease."""
_MARGIN_S = 2.0
"""Beyond the grace time, for the process to end by itself."""


def listen(settings: Settings) -> socket.socket:
    """Open the port.

    Raises:
        OSError: it is taken or forbidden, or the address is none of this machine.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot listen on {host}, port {port}: {reason}") from error


def serve(
    settings: Settings,
    listener: socket.socket,
    log_config: dict[str, Any],
    make_runtime: MakeRuntime = make_runtime,
) -> Exception | None:
    """Serve until a signal or a failure, then answer what was accepted and close.

    A first SIGTERM or SIGINT drains, a second one ends the process where it is. A network that
    failed for good ends the process with `FAULTY_EXIT_CODE` once it has drained.

    Returns:
        What stopped start-up, if anything.
    """

    def stop() -> None:
        server.drain()

    app = create_app(settings, make_runtime=make_runtime, on_failure=stop)
    service: Service = app.state.service
    server = _Server(
        uvicorn.Config(
            app,
            # Even where httptools is installed: with that, headers have no limit, and a body that
            # comes with an offer to upgrade is lost, as Java's client sends it by default.
            http="h11",
            log_config=log_config,
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        ),
        service,
        listener,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again once the server has drained
        server.run(sockets=[listener])
    if service.faulty:
        structlog.get_logger().error("ends faulty", error=str(service.failure))
        # A thread may hang in the network for ever; leaving in the usual way would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAULTY_EXIT_CODE)
    return service.failure


class _Server(uvicorn.Server):
    """Drains before it closes its port, which uvicorn would close at once."""

    def __init__(self, config: uvicorn.Config, service: Service, listener: socket.socket) -> None:
        super().__init__(config)
        self._service = service
        self._listener = listener
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Drain on the first signal; end at once on the second."""
        if self._captured_signals:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
        self._captured_signals.append(sig)  # uvicorn raises it again in the end
        self._service.draining = True
        asyncio.get_running_loop().call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Take no more work, answer what was accepted, then close."""
        self._service.draining = True
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._close_when_idle())
            grace_s = self._service.settings.shutdown_grace_s
            # A thread that hangs in the network would be waited for, for ever.
            timer = threading.Timer(grace_s + _MARGIN_S, os._exit, [FAULTY_EXIT_CODE])
            timer.daemon = True
            timer.start()

    async def _close_when_idle(self) -> None:
        loop, service = asyncio.get_running_loop(), self._service
        started = idle_since = loop.time()
        end = started + service.settings.shutdown_grace_s
        while (now := loop.time()) < end:
            if service.admission.requests:
                idle_since = now
            quiet_s = now - max(started, service.last_arrival)
            if now > idle_since and (quiet_s >= _QUIET_S or now - idle_since >= _LONGEST_LINGER_S):
                break
            await asyncio.sleep(0.05)
        await self._close_port()
        await asyncio.sleep(max(0, min(_QUIET_S, end - now)))  # they are told to go, too
        self.config.timeout_graceful_shutdown = max(1, math.ceil(end - now))
        self.should_exit = True

    async def _close_port(self) -> None:
        """Refuse newcomers from now on, and take those who already see a connection.

        uvicorn and asyncio would reset theirs: closing a listener drops what nobody accepted yet.
        """
        loop, late = asyncio.get_running_loop(), []
        loop.remove_reader(self._listener)
        with contextlib.suppress(OSError):  # until none waits
            while True:
                late.append(self._listener.accept()[0])
        with contextlib.suppress(OSError):  # on Linux it listens no more; elsewhere uvicorn ends it
            self._listener.shutdown(socket.SHUT_RD)
        for connection in late:
            await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for each connection."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
