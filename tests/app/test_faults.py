"""Networks that fail for good, and signals: a real process on a real port each time."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import Popen

import anyio
import httpx
import numpy as np
import pytest

from app.service import FAULTY_EXIT_CODE
from tests.app.faulty_server import POISON
from tests.app.process import ready, serving
from tests.app.tiny import encoded, pair

pytestmark = pytest.mark.anyio

URL = "/v1/saliency"


async def ended(process: Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 60)


@pytest.mark.parametrize("fault", ["raise", "nan", "hang"])
async def test_a_network_that_fails_for_good_ends_the_process_with_its_own_code(
    bundles: Path, fault: str
) -> None:
    poison = pair(encoded(np.full((64, 64, 3), POISON, np.uint8)))
    async with serving(bundles, fault, max_run_s="1") as (process, client):
        good = await client.post(URL, files=pair())
        failed = await client.post(URL, files=poison)
        refused = await client.post(URL, files=pair())
        live = await client.get("/livez")
        is_ready = await ready(client)
        code = await ended(process)

    assert good.status_code == 200
    assert (failed.status_code, failed.json()["code"]) == (500, "inference_failed")
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert live.status_code == 200
    assert not is_ready
    assert code == FAULTY_EXIT_CODE


async def stop_under_load(bundles: Path, log: Path) -> list[int]:
    """Send SIGTERM while 24 requests are on their way, once the first is answered.

    Returns:
        Their statuses; 0 for a connection that was refused or broke. A request is lost if it
        has no answer although the service took it, which its log shows.
    """
    async with serving(bundles, "slow", log, max_batch="2") as (process, client):

        async def post(number: int) -> int:
            await asyncio.sleep(0.04 * number)
            headers = {"x-request-id": f"post-{number}"}
            try:
                return (await client.post(URL, files=pair(), headers=headers)).status_code
            except httpx.TransportError:
                return 0

        posts = [asyncio.ensure_future(post(number)) for number in range(24)]
        await posts[0]
        process.send_signal(signal.SIGTERM)
        statuses = await asyncio.gather(*posts)
        code = await ended(process)

    assert code == -signal.SIGTERM  # passed on once the server has closed
    taken = await anyio.Path(log).read_text()
    assert '"post-0"' in taken
    for number, status in enumerate(statuses):
        assert status in (200, 503) or (status == 0 and f'"post-{number}"' not in taken), statuses
    return statuses


async def test_a_signal_lets_accepted_work_finish_and_refuses_the_rest(
    bundles: Path, tmp_path: Path
) -> None:
    statuses = await stop_under_load(bundles, tmp_path / "log")

    assert statuses[0] == 200
    assert statuses[-1] in (503, 0)


async def test_who_connected_before_the_port_closed_is_answered(bundles: Path) -> None:
    async with serving(bundles, "sound") as (process, client):
        address = ("127.0.0.1", client.base_url.port or 0)
        process.send_signal(signal.SIGTERM)
        with ExitStack() as opened:
            connections: list[socket.socket] = []
            with suppress(ConnectionRefusedError):
                while True:
                    connection = socket.create_connection(address, timeout=10)
                    connections.append(opened.enter_context(connection))
                    await asyncio.sleep(0.01)
            last = connections[-5:]
            for connection in last:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
            answers = [connection.recv(4096).partition(b"\r\n")[0] for connection in last]
        code = await ended(process)

    assert code == -signal.SIGTERM
    assert answers == [b"HTTP/1.1 503 Service Unavailable"] * 5


async def test_a_second_signal_ends_the_process_at_once(bundles: Path) -> None:
    async with serving(bundles, "slow", max_batch="1") as (process, client):
        posts = [asyncio.ensure_future(client.post(URL, files=pair())) for _ in range(50)]
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        still_runs = process.poll() is None
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 3)
        await asyncio.gather(*posts, return_exceptions=True)

    assert still_runs
    assert code == -signal.SIGTERM


async def test_a_signal_ends_a_process_that_hangs_once_its_grace_is_over(bundles: Path) -> None:
    poison = pair(encoded(np.full((64, 64, 3), POISON, np.uint8)))
    async with serving(bundles, "hang", shutdown_grace_s="1") as (process, client):
        post = asyncio.ensure_future(client.post(URL, files=poison))
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 15)
        await asyncio.gather(post, return_exceptions=True)

    assert code == FAULTY_EXIT_CODE


@pytest.mark.slow
@pytest.mark.parametrize("_round", range(50))
async def test_no_signal_under_load_loses_accepted_work(
    bundles: Path, tmp_path: Path, _round: int
) -> None:
    await stop_under_load(bundles, tmp_path / "log")
