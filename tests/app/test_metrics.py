"""What Prometheus, browsers and log readers see."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from model.bundle import Bundle
from model.runtimes.base import RuntimeFailure
from model.runtimes.echo import EchoRuntime
from tests.app.asgi import service_of
from tests.app.conftest import Serve
from tests.app.tiny import pair

pytestmark = pytest.mark.anyio

URL = "/v1/saliency"


async def read(client: AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_answers_stages_and_batches_are_measured(client: AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post(URL, files=pair()) for _ in range(5)))
    await client.post(URL, files=pair(b"no picture"))
    await client.get("/nowhere/anything")
    samples = await read(client)

    assert {answer.status_code for answer in answers} == {200}
    assert samples[key("mutualformer_requests_total", path=URL, status="200")] == 5
    assert samples[key("mutualformer_requests_total", path=URL, status="422")] == 1
    assert samples[key("mutualformer_requests_total", path="other", status="404")] == 1
    for stage in ("receive", "wait", "decode", "preprocess", "queue", "infer", "encode", "total"):
        assert samples[key("mutualformer_stage_seconds_count", stage=stage)] == 5
    assert samples[key("mutualformer_batch_size_sum", model="tiny")] == 5
    assert samples[key("mutualformer_queue_pairs", model="tiny")] == 0
    assert samples[key("mutualformer_admitted", unit="pairs")] == 0
    assert samples[key("mutualformer_ready")] == 1
    info = key(
        "mutualformer_model_info",
        model="tiny",
        version="1",
        task="saliency",
        precision="fp32",
        runtime="echo",
        device="cpu",
        requested_device="cpu",
    )
    assert samples[info] == 1


async def test_refusals_drops_and_failures_are_counted_by_reason(serve: Serve) -> None:
    class Failing(EchoRuntime):
        failing = False

        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.failing:
                raise RuntimeFailure("as told")
            return super().run(rgb, aux)

    runtime = Failing()

    def make_runtime(_bundle: Bundle, _settings: Settings) -> EchoRuntime:
        return runtime

    async with serve(make_runtime=make_runtime, max_queue=2) as client:
        await asyncio.gather(*(client.post(URL, files=pair()) for _ in range(5)))
        late = await client.post(URL, files=pair(), headers={"x-request-timeout-ms": "1"})
        runtime.failing = True
        await client.post(URL, files=pair())
        distrusted = await read(client)
        service_of(client).draining = True
        await client.post(URL, files=pair())
        samples = await read(client)

    assert late.status_code == 504
    assert samples[key("mutualformer_rejected_total", reason="pairs")] == 3
    assert samples[key("mutualformer_rejected_total", reason="not_ready")] == 1
    assert samples[key("mutualformer_dropped_requests_total", reason="expired")] == 1
    assert samples[key("mutualformer_run_failures_total", model="tiny")] == 1
    assert distrusted[key("mutualformer_ready")] == 0


async def test_metrics_can_be_turned_off(serve: Serve) -> None:
    async with serve(metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_server_timing_names_the_batch(client: AsyncClient) -> None:
    answer = await client.post(URL, files=pair())

    assert re.search(r'infer;dur=[\d.]+;desc="batch of 1"', answer.headers["server-timing"])


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/nowhere", "/docs"])
async def test_answers_carry_security_headers(client: AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    if path != "/docs":
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"
