"""More work than can be done, work that is late, and clients that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from app.images import decode_pair
from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime
from tests.app.asgi import Exchange, application_of, service_of
from tests.app.conftest import Serve
from tests.app.test_metrics import key, read
from tests.app.tiny import crop_form, encoded, noise, pair, png

pytestmark = pytest.mark.anyio

URL = "/v1/saliency"


class Gated(EchoRuntime):
    """Runs only while its gate is open; remembers the mean colour level of every row it ran."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.held = False
        self.rows: list[int] = []

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        self.held = not self.gate.is_set()
        assert self.gate.wait(timeout=30)
        self.rows += [int(row.mean()) for row in rgb]
        return super().run(rgb, aux)


@pytest.fixture
def gated() -> Iterator[Gated]:
    runtime = Gated()
    yield runtime
    runtime.gate.set()


def solid(level: int) -> dict[str, tuple[str, bytes]]:
    return pair(encoded(np.full((64, 64, 3), level, np.uint8)))


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters announce nothing
            await asyncio.sleep(0.005)


async def test_what_has_no_room_is_told_when_to_come_again_and_the_rest_is_answered(
    serve: Serve, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode_pair(*arguments, **options)

    monkeypatch.setattr("app.saliency.decode_pair", counted)
    async with serve(make_runtime=lambda _bundle, _settings: gated, max_queue=4) as client:
        gated.gate.clear()
        posts = [asyncio.ensure_future(client.post(URL, files=pair())) for _ in range(12)]
        await until(lambda: sum(post.done() for post in posts) == 8)
        gated.gate.set()
        answers = await asyncio.gather(*posts)
        afterwards = await client.post(URL, files=pair())

    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 8
    assert decoded == 5, "what is refused is never decoded"
    assert afterwards.status_code == 200
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            assert "total;dur=" in answer.headers["server-timing"]


async def test_many_pairs_are_refused_by_the_rule_for_one(serve: Serve, both_bundles: Any) -> None:
    gate = threading.Event()
    gate.set()

    class GatedEmbedding(EchoEmbeddingRuntime):
        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            assert gate.wait(timeout=30)
            return super().run(rgb, aux)

    def make_runtime(bundle: Any, _settings: Any) -> Any:
        return GatedEmbedding() if bundle.manifest.task == "reid" else EchoRuntime()

    url = "/v1/reid/embeddings"
    async with serve(bundles=both_bundles, make_runtime=make_runtime, max_queue=10) as client:
        admission = service_of(client).admission
        gate.clear()
        first = asyncio.ensure_future(client.post(url, files=crop_form(range(6))))
        await until(lambda: admission.pairs == 6)
        too_many = await client.post(url, files=crop_form(range(5)))
        fits = asyncio.ensure_future(client.post(url, files=crop_form(range(4))))
        await until(lambda: admission.pairs == 10)
        one = await client.post(url, files=crop_form([0]))
        gate.set()
        answers = [(await first).status_code, (await fits).status_code]
        lone = await client.post(url, files=crop_form(range(64)))

    assert (too_many.status_code, one.status_code) == (429, 429)
    assert answers == [200, 200]
    assert lone.status_code == 200, "64 pairs are more than wait, but nobody else was there"


async def test_a_streamed_body_that_exceeds_the_room_is_cut_off(serve: Serve, gated: Gated) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="rgb"; filename="a"\r\n\r\n'
        for _ in range(100):
            sent += 1000
            yield bytes(1000)

    async with serve(
        make_runtime=lambda _bundle, _settings: gated, max_queue_bytes=60_000
    ) as client:
        gated.gate.clear()
        first = asyncio.ensure_future(client.post(URL, files=pair()))
        await until(lambda: service_of(client).admission.pairs == 1)
        answer = await client.post(
            URL, content=body(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        gated.gate.set()

        assert (await first).status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert sent < 60_000


async def test_late_work_is_a_504_and_never_runs(serve: Serve, gated: Gated) -> None:
    async with serve(make_runtime=lambda _bundle, _settings: gated, max_batch=1) as client:
        gated.gate.clear()
        gated.rows.clear()
        first = asyncio.ensure_future(client.post(URL, files=solid(10)))
        await until(lambda: gated.held)
        late = await client.post(URL, files=solid(99), headers={"x-request-timeout-ms": "200"})
        gated.gate.set()
        await first
        last = await client.post(URL, files=solid(20))

    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert last.status_code == 200
    assert gated.rows == [10, 20]


async def test_the_header_may_only_lower_the_deadline(serve: Serve, gated: Gated) -> None:
    async with serve(
        make_runtime=lambda _bundle, _settings: gated, request_timeout_ms=200
    ) as client:
        gated.gate.clear()
        late = await client.post(URL, files=pair(), headers={"x-request-timeout-ms": "9" * 5000})
        gated.gate.set()

    assert late.status_code == 504


@pytest.mark.parametrize("sent", ["0", "-1", "1.5", "soon", "", "\u0663".encode().decode("latin1")])
async def test_a_deadline_that_is_no_number_is_refused(client: AsyncClient, sent: str) -> None:
    answer = await client.post(
        URL, files=pair(), headers={b"x-request-timeout-ms": sent.encode("latin1")}
    )

    assert (answer.status_code, answer.json()["field"]) == (422, "X-Request-Timeout-Ms")


async def test_the_work_of_a_client_that_left_never_runs(serve: Serve, gated: Gated) -> None:
    async with serve(make_runtime=lambda _bundle, _settings: gated, max_batch=1) as client:
        admission = service_of(client).admission
        gated.gate.clear()
        gated.rows.clear()
        first = asyncio.ensure_future(client.post(URL, files=solid(10)))
        await until(lambda: gated.held)
        leaver = Exchange(client, solid(99))
        serving = asyncio.ensure_future(leaver.run(application_of(client)))
        await until(lambda: admission.pairs == 2)
        await asyncio.sleep(0.1)
        leaver.leave()
        await serving
        held = admission.pairs
        gated.gate.set()
        await first
        last = await client.post(URL, files=solid(20))
        samples = await read(client)

    assert last.status_code == 200
    assert held == 1, "its room is given back at once"
    assert gated.rows == [10, 20]
    assert leaver.status == 499
    assert samples[key("mutualformer_dropped_pairs_total", model="tiny", reason="departed")] == 1
    assert samples[key("mutualformer_dropped_requests_total", reason="departed")] == 1


async def test_a_client_that_leaves_while_it_sends_gives_its_room_back(
    client: AsyncClient,
) -> None:
    leaver = Exchange(client, pair(), whole=False)
    serving = asyncio.ensure_future(leaver.run(application_of(client)))
    await until(lambda: service_of(client).admission.pairs == 1)
    leaver.leave()
    await serving

    admission = service_of(client).admission
    assert (admission.pairs, admission.size_bytes, admission.requests) == (0, 0, 0)
    assert (await client.post(URL, files=pair())).status_code == 200


async def test_every_outcome_gives_its_room_back(serve: Serve) -> None:
    async with serve(max_upload_bytes=100_000) as client:
        for files in (pair(), pair(b"no picture"), {"rgb": ("a", b"")}):
            await client.post(URL, files=files)
        await client.post("/nowhere", content=b"a")
        await client.post(URL, content=bytes(200_000))
        admission = service_of(client).admission

    assert (admission.pairs, admission.size_bytes, admission.requests) == (0, 0, 0)


async def test_the_pictures_of_a_request_share_a_budget_of_pixels(
    serve: Serve, both_bundles: Any
) -> None:
    side = 64 * 64
    async with serve(bundles=both_bundles, max_request_pixels=7 * side) as client:
        three = await client.post("/v1/reid/embeddings", files=crop_form(range(3)))
        four = await client.post("/v1/reid/embeddings", files=crop_form(range(4)))
        bomb = await client.post(URL, files=pair(png(300, 300), encoded(noise())))

    assert three.status_code == 200
    assert (four.status_code, four.json()["code"]) == (413, "picture_too_large")
    assert (bomb.status_code, bomb.json()["field"]) == (413, "rgb")
