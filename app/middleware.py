"""What surrounds every request, as pure ASGI: identity, timing, log, limits, admission."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import uuid
from collections.abc import Awaitable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.admission import Ticket
from app.errors import (
    BadRequest,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RateLimited,
    RequestTooLarge,
    ServiceError,
    Unauthorized,
)
from app.keys import RateLimit
from app.problems import render
from app.service import Service
from app.telemetry import StageTimes

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MAX_DIGITS = 18
_PROBES = {"/livez", "/readyz", "/startupz", "/v2/health/live", "/v2/health/ready"}
_OPEN = _PROBES | {"/", "/docs", "/openapi.json"}
_PAGE = "/page/"
_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_CLIENT_LEFT = 499
"""Status in the log of a request whose client did not wait; nobody receives it."""
_DISCARD_S = 5.0
"""Longest that the body of a refused request is read to its end and thrown away."""


class RequestFrame:
    """Gives each request an id and `StageTimes`, and each answer, errors too, their headers.

    Outermost: an error that nothing else caught becomes a problem here. `HEAD` is answered
    wherever `GET` is. While the service shuts down, connections are closed after their answer.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
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
        if scope["path"] not in _PROBES:
            self._service.last_arrival = asyncio.get_running_loop().time()
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
                _harden(headers)
                if self._service.draining:
                    headers["Connection"] = "close"
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_framed)
        except Exception as error:
            self._log.exception("unforeseen error", request_id=request_id)
            if status:
                raise
            await render(error, scope)(scope, receive, send_framed)
        finally:
            times_ms = times.milliseconds()
            route = scope.get("route")
            path = getattr(route, "path", "other")  # a template: paths of strangers are countless
            self._service.metrics.answered(path, status, times_ms)
            level = "debug" if scope["path"] in _PROBES and status < 400 else "info"
            getattr(self._log, level)(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                client=scope["state"].get("client"),
                batch_size=times.batch_size or None,
                times_ms=times_ms,
            )


class Guard:
    """Lets in whom the service knows, and not too often.

    What is open to everyone lets nobody ask for work nor see what is served: probes, the
    description of the API, the demo page.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        settings = service.settings
        self._rate = None
        if settings.rate_limit_per_s is not None:
            self._rate = RateLimit(settings.rate_limit_per_s, settings.rate_limit_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            try:
                scope["state"]["client"] = client = self._client(scope)
                if self._rate is not None and scope["method"] == "POST":
                    wait_s = self._rate.take(client or "")
                    if wait_s:
                        raise RateLimited(
                            "more requests than this client may send",
                            retry_after_s=math.ceil(wait_s),
                        )
            except ServiceError as error:
                self._service.metrics.rejected(error.code)
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> str | None:
        """Whose key was sent; none where none is needed."""
        path = scope["path"]
        if self._service.settings.api_keys_file is None:
            return None
        if path in _OPEN or path.startswith(_PAGE):
            return None
        if self._service.keys is None:
            raise NotReady(self._service.phase)
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        name = self._service.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            raise Unauthorized("send a known API key as `Authorization: Bearer KEY`")
        return name


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
        if _announced_bytes(scope) > self._max_bytes:
            problem = render(RequestTooLarge(self._detail), scope)
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


class AdmissionGate:
    """Lets work in while there is room, and ends it when it is late or its client left.

    Work is every POST. It gets a `Ticket` before its body is read, and a deadline from its
    arrival on.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._service.check_accepting()
            timeout_s = self._timeout_s(scope)
            ticket = self._service.admission.enter(_announced_bytes(scope), timeout_s)
        except ServiceError as error:
            if not isinstance(error, Overloaded):  # which `Admission` counts by what was too much
                self._service.metrics.rejected(error.code)
            await refuse(error, scope, receive, send)
            return
        answered = False
        try:
            answered = await self._serve(scope, receive, send, ticket)
        finally:
            ticket.leave(answered=answered)

    def _timeout_s(self, scope: Scope) -> float:
        """Raise `BadRequest` unless the header, if sent, is a whole number from 1 on."""
        longest_ms = self._service.settings.request_timeout_ms
        sent = Headers(scope=scope).get(_TIMEOUT_HEADER)
        if sent is None:
            return longest_ms / 1000
        if not (sent.isascii() and sent.isdecimal() and sent.strip("0")):
            raise BadRequest(
                f"{_TIMEOUT_HEADER} is {sent[:20]!r}, expected whole milliseconds from 1 on",
                field=_TIMEOUT_HEADER,
            )
        # Compared by digits first: int() refuses thousands of them.
        return min(longest_ms, longest_ms if len(sent) > _MAX_DIGITS else int(sent)) / 1000

    async def _serve(self, scope: Scope, receive: Receive, send: Send, ticket: Ticket) -> bool:
        """Run the application until it has answered; false if it was ended before."""
        times: StageTimes = scope["state"]["times"]
        times.deadline = asyncio.get_running_loop().time() + ticket.timeout_s
        scope["state"]["ticket"] = ticket
        announced = ticket.size_bytes
        received = 0
        whole, departed = asyncio.Event(), asyncio.Event()
        started = False

        async def receive_watched() -> Message:
            nonlocal received
            if whole.is_set():  # the watcher has the connection now
                await departed.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                departed.set()
                return message
            received += len(message.get("body", b""))
            if received > max(announced, ticket.size_bytes):
                try:
                    ticket.hold(more_bytes=received - ticket.size_bytes)
                except Overloaded as error:
                    # Form parsing lets only this exception pass as it is.
                    headers = {"Retry-After": str(error.retry_after_s)}
                    raise HTTPException(429, error.detail, headers) from error
            if not message.get("more_body", False):
                whole.set()
            return message

        async def send_noted(message: Message) -> None:
            nonlocal started
            if message.get("status") == DeadlineExceeded.status:
                self._service.metrics.dropped("expired")
            started = True
            await send(message)

        async def watch() -> None:
            await whole.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            departed.set()

        work = asyncio.create_task(_whatever(self._app(scope, receive_watched, send_noted)))
        watcher = asyncio.create_task(watch())
        leaving = asyncio.create_task(departed.wait())
        try:
            await asyncio.wait(
                {work, leaving}, timeout=ticket.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not work.done() and started and not departed.is_set():
                # As long again for a slow reader of the answer.
                await asyncio.wait(
                    {work, leaving}, timeout=ticket.timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
            if work.done():
                work.result()
                return True
        finally:
            for task in (work, watcher, leaving):
                task.cancel()
            await asyncio.gather(work, watcher, leaving, return_exceptions=True)
        if started:
            return False
        if departed.is_set():
            self._service.metrics.dropped("departed")
            await Response(status_code=_CLIENT_LEFT)(scope, receive, send)
        else:
            self._service.metrics.dropped("expired")
            late = DeadlineExceeded(f"no answer within {1000 * ticket.timeout_s:g} ms")
            await refuse(late, scope, receive, send, body_read=whole.is_set())
        return False


async def refuse(
    error: ServiceError, scope: Scope, receive: Receive, send: Send, *, body_read: bool = False
) -> None:
    """Answer with a problem, then read the rest of the body into the void.

    A connection that is closed on unread bytes is reset, and the client would lose the answer.
    Nothing is read for a client that waits to be told to go on, nor from one that dawdles.
    """
    problem = render(error, scope)
    waits = Headers(scope=scope).get("expect", "").lower() == "100-continue"
    if waits:
        problem.headers["Connection"] = "close"
    await send(
        {
            "type": "http.response.start",
            "status": problem.status_code,
            "headers": problem.raw_headers,
        }
    )
    await send({"type": "http.response.body", "body": problem.body, "more_body": True})
    if not (waits or body_read):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _harden(headers: MutableHeaders) -> None:
    """Keep browsers from guessing, framing, leaking and, but for pages, caching and running."""
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    if not headers.get("content-type", "").startswith("text/html"):
        headers.setdefault("Cache-Control", "no-store")
        headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"


async def _whatever(work: Awaitable[None]) -> None:
    await work


def _announced_bytes(scope: Scope) -> int:
    """What Content-Length says; 0 if it says nothing, more than anything if it is absurd."""
    announced = Headers(scope=scope).get("content-length", "")
    if not (announced.isascii() and announced.isdecimal()):
        return 0
    # Compared by digits first: int() refuses thousands of them.
    return int(announced) if len(announced) <= _MAX_DIGITS else 10**_MAX_DIGITS
