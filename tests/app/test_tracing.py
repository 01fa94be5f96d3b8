"""Spans of OpenTelemetry, where a program has set it up."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.app.asgi import application_of
from tests.app.tiny import pair

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
STAGES = ["receive", "wait", "decode", "preprocess", "queue", "infer", "encode"]


@pytest.fixture
def exporter(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    application: Any = application_of(client)
    monkeypatch.setitem(application._telemetry, "tracer_provider", provider)
    monkeypatch.setitem(application._telemetry, "operation_spans", False)
    monkeypatch.setattr("app.telemetry._tracer", provider.get_tracer("mutualformer"))
    return exporter


async def test_each_stage_is_a_span_below_that_of_the_callers_request(
    client: AsyncClient, exporter: InMemorySpanExporter
) -> None:
    caller = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

    answer = await client.post("/v1/saliency", files=pair(), headers=caller)

    assert answer.status_code == 200
    spans: list[Any] = list(exporter.get_finished_spans())
    request, stages = spans[-1], sorted(spans[:-1], key=lambda span: int(span.start_time))
    assert request.name == "POST /v1/saliency"
    assert f"{request.context.trace_id:032x}" == TRACE
    assert [span.name for span in stages] == STAGES
    for span in stages:
        assert span.parent.span_id == request.context.span_id
        assert request.start_time - 1e6 <= span.start_time <= span.end_time <= request.end_time
    assert next(span for span in stages if span.name == "infer").attributes == {"pairs": 1}
