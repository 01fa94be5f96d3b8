"""What surrounds every request, as pure ASGI: identity, timing, the log line, the body's limit."""

from __future__ import annotations

import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RequestTooLarge
from app.problems import render
from app.telemetry import StageTimes

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MAX_DIGITS = 18
_PROBES = {"/livez", "/readyz", "/startupz"}


class RequestFrame:
    """Gives each request an id and `StageTimes`, and each answer, errors too, their headers.

    Outermost: an error that nothing else caught becomes a problem here. `HEAD` is answered
    wherever `GET` is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        times = StageTimes()
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _SANE_REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex
        head = scope["method"] == "HEAD"
        scope = {
            **scope,
            "method": "GET" if head else scope["method"],
            "state": {**scope.get("state", {}), "request_id": request_id, "times": times},
        }
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["Server-Timing"] = times.server_timing()
                headers["X-Content-Type-Options"] = "nosniff"
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_framed)
        except Exception as error:
            self._log.exception("unforeseen error", request_id=request_id)
            if status:
                raise
            await render(error, request_id)(scope, receive, send_framed)
        finally:
            level = "debug" if scope["path"] in _PROBES and status < 400 else "info"
            getattr(self._log, level)(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                times_ms=times.milliseconds(),
            )


class BodyLimit:
    """Refuses a body that is too large by its announced length, else by counting what arrives."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._detail = f"the request body may have at most {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        # Compared by digits first: int() refuses thousands of them.
        if announced.isdecimal() and (
            len(announced) > _MAX_DIGITS or int(announced) > self._max_bytes
        ):
            problem = render(RequestTooLarge(self._detail), scope["state"]["request_id"])
            problem.headers["Connection"] = "close"  # the body stays unread
            await problem(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # Form parsing lets only this exception pass as it is.
                raise HTTPException(413, self._detail)
            return message

        await self._app(scope, receive_counted, send)
