"""HTTP as it comes over a socket, which no client library would send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.app.process import serving
from tests.app.tiny import pair

pytestmark = pytest.mark.anyio


async def exchange(client: httpx.AsyncClient, request: bytes) -> bytes:
    """Send bytes; the first line of what comes back, empty if the connection is closed."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_body_that_comes_with_an_offer_to_upgrade_is_read(bundles: Path) -> None:
    offer = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAMAAABk",
    }
    async with serving(bundles, "sound") as (_, client):
        answer = await client.post("/v1/saliency", files=pair(), headers=offer)

    assert answer.status_code == 200


async def test_endless_headers_are_refused_and_the_next_request_is_answered(bundles: Path) -> None:
    async with serving(bundles, "sound") as (_, client):
        endless = b"GET /livez HTTP/1.1\r\nhost: a\r\nx-long: " + bytes([65]) * 5_000_000
        refused = await exchange(client, endless)
        alive = await client.get("/livez")

    assert refused == b"" or refused.startswith(b"HTTP/1.1 4")
    assert alive.status_code == 200
