"""Below the in-process client: its application and service, and clients that leave."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Request
from starlette.types import Message

from app.service import Service


def application_of(client: AsyncClient) -> FastAPI:
    """What the client of the fixture `serve` talks to."""
    transport = client._transport
    assert isinstance(transport, ASGITransport)
    assert isinstance(transport.app, FastAPI)
    return transport.app


def service_of(client: AsyncClient) -> Service:
    """The service behind the client of the fixture `serve`."""
    service = application_of(client).state.service
    assert isinstance(service, Service)
    return service


class Exchange:
    """One request by hand, whose client may leave at any time.

    Args:
        client: builds the request, and is not used otherwise.
        files: the form of a saliency request.
        whole: whether the body is sent to its end.
    """

    def __init__(
        self, client: AsyncClient, files: dict[str, tuple[str, bytes]], *, whole: bool = True
    ) -> None:
        self._request: Request = client.build_request("POST", "/v1/saliency", files=files)
        self._whole = whole
        self._sent = False
        self._left = asyncio.Event()
        self.status: int | None = None

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def run(self, application: FastAPI) -> None:
        """Have the request served."""
        request = self._request
        scope = {
            "type": "http",
            "method": "POST",
            "path": request.url.path,
            "raw_path": request.url.raw_path,
            "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": ("test", 80),
            "client": ("test", 1),
            "scheme": "http",
            "http_version": "1.1",
            "state": {},
        }
        await application(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            body = self._request.read()
            if self._whole:
                return {"type": "http.request", "body": body, "more_body": False}
            return {"type": "http.request", "body": body[: len(body) // 2], "more_body": True}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
