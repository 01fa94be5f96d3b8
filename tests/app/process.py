"""The service as a process of its own, on a real port; see `tests.app.faulty_server`."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(
    bundles: Path, fault: str, log: Path = Path(os.devnull), **settings: str
) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx.AsyncClient]]:
    """The process and a client of it, once it is ready; its log goes into a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(fault, port, log, {"bundles": str(bundles), **settings})
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            async with asyncio.timeout(120):
                while not await ready(client):
                    assert process.poll() is None
                    await asyncio.sleep(0.1)
            yield process, client
    finally:
        process.kill()
        process.wait()


def start(fault: str, port: int, log: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    variables = {f"MUTUALFORMER_{name.upper()}": value for name, value in settings.items()}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.app.faulty_server", fault, str(port)],
            cwd=ROOT,
            env={**os.environ, **variables},
            stderr=file,
        )


async def ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False
