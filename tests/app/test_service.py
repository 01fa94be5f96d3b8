"""Start-up, health, models, and what surrounds every answer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import anyio
import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from app.main import create_app
from app.service import make_runtime
from app.settings import Settings
from model.bundle import Bundle
from model.runtimes.base import Runtime, RuntimeFailure
from model.runtimes.echo import EchoRuntime
from tests.app.asgi import service_of
from tests.app.conftest import Serve
from tests.app.tiny import crop_form, pair, write_bundle

pytestmark = pytest.mark.anyio

PROBES = ("/livez", "/startupz", "/readyz")


async def probe(client: AsyncClient) -> list[int]:
    return [(await client.get(path)).status_code for path in PROBES]


class Moody(EchoRuntime):
    """Fails, or answers nonsense, for as long as it is told to."""

    mood = "good"

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.mood == "failing":
            raise RuntimeFailure("as told")
        output = super().run(rgb, aux)
        return output * np.float32(np.nan) if self.mood == "nan" else output


async def test_a_started_service_is_live_started_and_ready(client: AsyncClient) -> None:
    assert await probe(client) == [200, 200, 200]


async def test_a_loading_service_is_live_only_and_says_what_it_does(serve: Serve) -> None:
    entered, gate = threading.Event(), threading.Event()

    def wait_then_echo(_bundle: Bundle, _settings: Settings) -> Runtime:
        entered.set()
        gate.wait(timeout=30)
        return EchoRuntime()

    async with serve(make_runtime=wait_then_echo, wait=False) as client:
        try:
            await anyio.to_thread.run_sync(entered.wait, 30)
            progress = (await client.get("/startupz")).json()["detail"]
            while_loading = await probe(client)
            post = await client.post("/v1/saliency", files=pair())
        finally:
            gate.set()
        await service_of(client).settled.wait()
        once_loaded = await probe(client)

    assert progress == "loading tiny"
    assert while_loading == [200, 503, 503]
    assert (post.status_code, post.json()["code"]) == (503, "not_ready")
    assert int(post.headers["retry-after"]) > 0
    assert once_loaded == [200, 200, 200]


@pytest.mark.parametrize("mood", ["failing", "nan"])
async def test_a_failed_run_ends_readiness_until_the_canary_passes(
    serve: Serve, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Moody()
    monkeypatch.setattr("app.service._PAUSE_S", 0.3)

    async with serve(make_runtime=lambda _bundle, _settings: runtime) as client:
        runtime.mood = mood
        failed = await client.post("/v1/saliency", files=pair())
        while_failing = await probe(client)
        runtime.mood = "good"
        async with asyncio.timeout(10):
            while await probe(client) == while_failing:  # noqa: ASYNC110 - as a balancer does
                await asyncio.sleep(0.05)
        once_healed = await probe(client)

    assert (failed.status_code, failed.json()["code"]) == (500, "inference_failed")
    assert while_failing == [200, 200, 503]
    assert once_healed == [200, 200, 200]


async def test_a_draining_service_has_started_but_is_not_ready(bundles: Path, serve: Serve) -> None:
    async with serve(bundles=bundles) as client:
        service_of(client).draining = True

        assert await probe(client) == [200, 200, 503]
        assert (await client.post("/v1/saliency", files=pair())).status_code == 503


async def failure_of(settings: Settings) -> str:
    """Why a service with these settings does not start."""
    called = anyio.Event()
    app = create_app(settings, on_failure=called.set)
    async with app.router.lifespan_context(app):
        with anyio.fail_after(30):
            await called.wait()
        return str(app.state.service.failure)


async def test_an_altered_file_stops_start_up_by_name(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    (bundle.path / "README.md").write_text("# Something else\n")

    failure = await failure_of(Settings(bundles=tmp_path))

    assert "README.md" in failure
    assert "sha256" in failure


async def test_no_bundle_stops_start_up(tmp_path: Path) -> None:
    assert "no bundle" in await failure_of(Settings(bundles=tmp_path))


async def test_a_default_model_that_is_not_there_stops_start_up(bundles: Path) -> None:
    failure = await failure_of(Settings(bundles=bundles, default_model="other"))

    assert "'other'" in failure


@pytest.mark.parametrize(
    ("chosen", "saliency", "reid"),
    [
        (None, "a", "c"),
        ("b", "b", "c"),
        ("d", "a", "d"),
        ("b,d", "b", "d"),
        (" d , b ", "b", "d"),
    ],
)
async def test_a_default_is_chosen_for_each_task(
    serve: Serve, tmp_path: Path, chosen: str | None, saliency: str, reid: str
) -> None:
    for name, task in (("a", "saliency"), ("b", "saliency"), ("c", "reid"), ("d", "reid")):
        write_bundle(tmp_path / name, task=task)

    async with serve(bundles=tmp_path, default_model=chosen) as client:
        found = await client.post("/v1/saliency", files=pair())
        embedding = await client.post("/v1/reid/embeddings", files=crop_form([0]))
        listed = (await client.get("/v1/models")).json()["models"]

    assert found.headers["x-model-id"] == f"{saliency}@1"
    assert embedding.json()["model_id"] == f"{reid}@1"
    assert {model["name"] for model in listed if model["default"]} == {saliency, reid}


async def test_two_defaults_for_one_task_stop_start_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_bundle(tmp_path / name)

    failure = await failure_of(Settings(bundles=tmp_path, default_model="a,b"))

    assert "'a' and 'b' for saliency" in failure


async def test_a_gpu_that_is_not_there_stops_start_up(bundles: Path) -> None:
    failure = await failure_of(Settings(bundles=bundles, device="cuda"))

    assert "CUDAExecutionProvider" in failure


async def test_a_network_that_is_not_the_exported_one_stops_start_up(serve: Serve) -> None:
    class Inverted(EchoRuntime):
        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            return 1 - super().run(rgb, aux)

    async with serve(make_runtime=lambda _bundle, _settings: Inverted()) as client:
        answer = await client.get("/startupz")

    assert answer.status_code == 503
    assert "canary" in answer.json()["detail"]


async def test_fallback_to_the_cpu_shows_in_the_list_of_models(serve: Serve) -> None:
    async with serve(
        make_runtime=make_runtime, device="cuda", provider_policy="fallback"
    ) as client:
        answer = await client.get("/v1/models/tiny")

    report = answer.json()
    assert (report["requested_device"], report["device"]) == ("cuda", "cpu")


async def test_models_show_manifest_parity_and_runtime(client: AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["models"]
    single = (await client.get("/v1/models/tiny")).json()

    assert listed == [single]
    assert (single["model_id"], single["default"]) == ("tiny@1", True)
    assert (single["runtime"], single["device"]) == ("echo", "cpu")
    assert single["manifest"]["input_size"] == [64, 64]
    assert single["parity"] == {"onnx": {"max_abs_error": 0.0}}
    assert single["canary_max_error"] < 1e-6


async def test_an_embedding_bundle_does_not_answer_saliency(serve: Serve, tmp_path: Path) -> None:
    write_bundle(tmp_path / "vectors", task="reid")

    async with serve(bundles=tmp_path) as client:
        answer = await client.post("/v1/saliency?model=vectors", files=pair())

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "unknown_model"),
        ("GET", "/v1/saliency", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_every_error_is_a_problem_with_timing_and_identity(
    client: AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path, headers={"x-request-id": "mine-1"})

    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:mutualformer:{code}"
    assert problem["instance"] == "urn:request:mine-1"
    assert "total;dur=" in answer.headers["server-timing"]


async def test_an_unforeseen_error_is_a_problem_that_tells_nothing(serve: Serve) -> None:
    class Surprising(EchoRuntime):
        surprising = False

        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.surprising:
                raise ZeroDivisionError("a secret")
            return super().run(rgb, aux)

    runtime = Surprising()
    async with serve(make_runtime=lambda _bundle, _settings: runtime) as client:
        runtime.surprising = True
        answer = await client.post("/v1/saliency", files=pair())

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "total;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-123", True), ("a b", False), ("x" * 65, False), ("", False)]
)
async def test_a_sane_request_id_is_kept(client: AsyncClient, sent: str, kept: bool) -> None:
    answer = await client.get("/livez", headers={"x-request-id": sent})

    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.headers["x-request-id"]


async def test_head_is_answered_like_get_without_a_body(client: AsyncClient) -> None:
    answer = await client.head("/readyz")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_without_the_page_the_root_leads_to_the_documentation(serve: Serve) -> None:
    async with serve(page=False) as client:
        root, docs = await client.get("/"), await client.get("/docs")

    assert root.headers["location"] == "/docs"
    assert docs.status_code == 200


async def test_documentation_can_be_turned_off(serve: Serve) -> None:
    async with serve(docs=False, page=False) as client:
        assert (await client.get("/")).json()["name"] == "MutualFormer Serve"
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 404


async def test_openapi_describes_answers_and_problems_as_they_are(client: AsyncClient) -> None:
    openapi = (await client.get("/openapi.json")).json()

    for path, schema, fields, optional in (
        ("/v1/reid/embeddings", "EmbeddingReport", {"rgb", "nir"}, {"nir"}),
        (
            "/v1/reid/similarity",
            "SimilarityReport",
            {"query_rgb", "query_nir", "gallery_rgb", "gallery_nir"},
            set(),
        ),
    ):
        operation = openapi["paths"][path]["post"]
        content = operation["responses"]["200"]["content"]
        assert list(content) == ["application/json"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{schema}")
        assert {"400", "404", "409", "413", "422", "500", "503"} <= set(operation["responses"])
        body = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
        form = openapi["components"]["schemas"][body.rsplit("/", 1)[1]]
        assert set(form["properties"]) == fields
        assert set(form["required"]) == fields - optional
        for field in form["properties"].values():
            assert field["type"] == "array"
            assert field["description"]
        assert all(parameter["description"] for parameter in operation["parameters"])
    responses = openapi["paths"]["/v1/saliency"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {
        "image/png",
        "application/json",
        "application/x-npy",
    }
    errors = [
        response["content"]
        for path in openapi["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if status >= "400"
    ]
    assert errors
    for content in errors:
        assert list(content) == ["application/problem+json"]
        assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
