"""The Open Inference Protocol: tensors in JSON or raw, the same answers as for pictures."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray

from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime
from tests.app.conftest import Serve
from tests.app.test_metrics import key, read
from tests.app.tiny import DIM, SIDE, noise, pair, ramp

pytestmark = pytest.mark.anyio

URL = "/v2/models/tiny/infer"
SIZE = "Inference-Header-Content-Length"
Rgb = NDArray[np.uint8]
Aux = NDArray[np.float32]


@pytest.fixture
async def client(serve: Serve, both_bundles: Path) -> AsyncIterator[AsyncClient]:
    async with serve(bundles=both_bundles, max_queue_delay_ms=50) as started:
        yield started


def tensors(rows: int, seed: int = 0) -> tuple[Rgb, Aux]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)
    return rgb, rng.random((rows, SIDE, SIDE, 1), dtype=np.float32)


def as_json(rgb: Rgb, aux: Aux, **changes: Any) -> dict[str, Any]:
    inputs = [
        {"name": "rgb", "datatype": "UINT8", "shape": list(rgb.shape), "data": rgb.tolist()},
        {"name": "aux", "datatype": "FP32", "shape": list(aux.shape), "data": aux.ravel().tolist()},
    ]
    return {"inputs": inputs, **changes}


def as_raw(rgb: Rgb, aux: Aux, **changes: Any) -> dict[str, Any]:
    """Content and headers of a request whose tensors follow its JSON."""
    request = as_json(rgb, aux, **changes)
    for tensor, size in zip(request["inputs"], (rgb.nbytes, aux.nbytes), strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": size}
    text = json.dumps(request).encode()
    return {
        "content": text + rgb.tobytes() + aux.tobytes(),
        "headers": {SIZE: str(len(text))},
    }


def raw_rows(answer: Response) -> Aux:
    size = int(answer.headers[SIZE])
    (output,) = json.loads(answer.content[:size])["outputs"]
    data = answer.content[size:]
    assert output["parameters"]["binary_data_size"] == len(data)
    return np.frombuffer(data, "<f4").reshape(output["shape"])


async def test_health_and_metadata_are_as_the_protocol_says(client: AsyncClient) -> None:
    answers = {
        path: (await client.get(f"/v2{path}")).json()
        for path in (
            "/health/live",
            "/health/ready",
            "/models/tiny/ready",
            "/models/tiny/versions/1",
            "/models/tiny-reid",
        )
    }

    assert (await client.get("/v2")).json()["extensions"] == ["binary_tensor_data"]
    assert answers["/health/live"] == {"live": True}
    assert answers["/health/ready"] == {"ready": True}
    assert answers["/models/tiny/ready"] == {"name": "tiny", "ready": True}
    assert answers["/models/tiny/versions/1"] == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "echo",
        "inputs": [
            {"name": "rgb", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]},
            {"name": "aux", "datatype": "FP32", "shape": [-1, SIDE, SIDE, 1]},
        ],
        "outputs": [{"name": "saliency", "datatype": "FP32", "shape": [-1, SIDE, SIDE]}],
    }
    assert answers["/models/tiny-reid"]["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": [-1, DIM]}
    ]


async def test_json_and_raw_tensors_are_answered_alike(client: AsyncClient) -> None:
    rgb, aux = tensors(3)
    expected = EchoRuntime().run(rgb, aux)

    plain = await client.post(URL, json=as_json(rgb, aux, id="abc"))
    raw = await client.post(URL, **as_raw(rgb, aux, parameters={"binary_data_output": True}))
    wanted = [{"name": "saliency", "parameters": {"binary_data": True}}]
    by_output = await client.post(URL, **as_raw(rgb, aux, outputs=wanted))

    report = plain.json()
    assert (report["model_name"], report["model_version"], report["id"]) == ("tiny", "1", "abc")
    (output,) = report["outputs"]
    assert (output["name"], output["datatype"]) == ("saliency", "FP32")
    rows = np.float32(output["data"]).reshape(output["shape"])
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(raw_rows(raw), expected)
    np.testing.assert_array_equal(raw_rows(by_output), expected)
    assert 'desc="batch of 3"' in raw.headers["server-timing"]


async def test_embeddings_come_in_the_order_of_their_rows(client: AsyncClient) -> None:
    rgb, aux = tensors(20)

    answer = await client.post(
        "/v2/models/tiny-reid/versions/1/infer",
        **as_raw(rgb, aux, parameters={"binary_data_output": True}),
    )

    np.testing.assert_allclose(raw_rows(answer), EchoEmbeddingRuntime().run(rgb, aux), atol=1e-6)


async def test_tensors_and_pictures_share_batches(client: AsyncClient) -> None:
    rgb, aux = noise()[None], (ramp()[None, ..., None] / 255).astype(np.float32)

    pictures, raw = await asyncio.gather(
        client.post("/v1/saliency?output=npy", files=pair()),
        client.post(URL, **as_raw(rgb, aux, parameters={"binary_data_output": True})),
    )
    samples = await read(client)

    from_pictures = np.load(io.BytesIO(pictures.content))
    np.testing.assert_allclose(raw_rows(raw)[0], from_pictures, atol=1e-6)
    assert samples[key("mutualformer_batch_size_count", model="tiny")] == 1
    assert samples[key("mutualformer_batch_size_sum", model="tiny")] == 2


def changed(which: int, **changes: Any) -> bytes:
    request = as_json(*tensors(1))
    request["inputs"][which].update(changes)
    return json.dumps(request).encode()


BAD = {
    "no-json": (b"{", "body"),
    "no-inputs": (b"{}", "inputs"),
    "one-input": (b'{"inputs": []}', "aux"),
    "unknown-input": (changed(0, name="red"), "red"),
    "twice": (changed(1, name="rgb"), "rgb"),
    "wrong-type": (changed(0, datatype="FP32"), "rgb"),
    "wrong-shape": (changed(1, shape=[1, SIDE, SIDE]), "aux"),
    "no-rows": (changed(0, shape=[0, SIDE, SIDE, 3], data=[]), "rgb"),
    "65-rows": (changed(0, shape=[65, SIDE, SIDE, 3]), "rgb"),
    "minus-rows": (changed(0, shape=[-1, SIDE, SIDE, 3]), "rgb"),
    "too-few": (changed(1, data=[0.5]), "aux"),
    "no-data": (changed(1, data=None), "aux"),
    "words": (changed(1, data=["a"]), "aux"),
    "ragged": (changed(1, data=[[1], [1, 2]]), "aux"),
    "nested": (changed(1, data=json.loads("[" * 90 + "]" * 90)), "aux"),
    "halves": (changed(0, data=[0.5] * (3 * SIDE * SIDE)), "rgb"),
    "256": (changed(0, data=[256] * (3 * SIDE * SIDE)), "rgb"),
    "huge-int": (changed(0, data=[10**400] * (3 * SIDE * SIDE)), "rgb"),
    "infinite": (changed(1, data=[1e300] * (SIDE * SIDE)), "aux"),
    "nan": (changed(1, data=[float("nan")] * (SIDE * SIDE)), "aux"),
    "above-1": (changed(1, data=[1.01] * (SIDE * SIDE)), "aux"),
    "raw-and-json": (changed(1, parameters={"binary_data_size": 4 * SIDE * SIDE}), "aux"),
    "float-size": (changed(1, data=None, parameters={"binary_data_size": 16384.0}), "aux"),
}


@pytest.mark.parametrize(("body", "field"), BAD.values(), ids=BAD)
async def test_a_bad_tensor_is_refused_by_name(
    client: AsyncClient, body: bytes, field: str
) -> None:
    answer = await client.post(URL, content=body)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert field in (problem.get("field"), problem["detail"].partition(":")[0])
    assert problem["error"] == problem["detail"]


@pytest.mark.parametrize("size", ["-1", "x", "9" * 30, "1000000", "3", ""])
async def test_a_wrong_length_of_the_json_is_refused(client: AsyncClient, size: str) -> None:
    request = as_raw(*tensors(1))

    answer = await client.post(URL, content=request["content"], headers={SIZE: size})

    assert answer.status_code == 422


async def test_bytes_that_belong_to_no_tensor_are_refused(client: AsyncClient) -> None:
    request = as_raw(*tensors(1))

    longer = await client.post(URL, content=request["content"] + b"x", headers=request["headers"])
    shorter = await client.post(URL, content=request["content"][:-1], headers=request["headers"])

    assert (longer.status_code, shorter.status_code) == (422, 422)


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/tiny/versions/2/infer"])
async def test_an_unknown_model_or_version_is_not_found(client: AsyncClient, path: str) -> None:
    answer = await client.post(path, **as_raw(*tensors(1)))

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")


async def test_rows_are_counted_before_they_run(serve: Serve, both_bundles: Path) -> None:
    async with serve(bundles=both_bundles, max_queue=4, max_queue_delay_ms=500) as client:
        one = asyncio.ensure_future(client.post(URL, **as_raw(*tensors(1))))
        await asyncio.sleep(0.2)
        four = await client.post(URL, **as_raw(*tensors(4)))

        assert (await one).status_code == 200
    assert four.status_code == 429
