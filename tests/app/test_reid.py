"""`POST /v1/reid/...`, good requests: answers are compared with what each pair says they are."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from PIL import Image

from app.telemetry import StageTimes
from model.runtimes.base import RuntimeFailure
from model.runtimes.echo import EchoEmbeddingRuntime
from tests.app.conftest import Serve
from tests.app.tiny import (
    DIM,
    SIDE,
    Rows,
    crop_form,
    crops,
    echo,
    embedded,
    encoded,
    form,
    noise,
    pair,
    ramp,
    write_bundle,
)

pytestmark = pytest.mark.anyio

EMBEDDINGS = "/v1/reid/embeddings"
SIMILARITY = "/v1/reid/similarity"
ARITHMETIC = 1e-6  # float32


@pytest.fixture
async def client(serve: Serve, both_bundles: Path) -> AsyncIterator[AsyncClient]:
    async with serve(bundles=both_bundles) as started:
        yield started


def vectors(answer: Any) -> Rows:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"], np.float32)


async def test_an_embedding_says_where_it_comes_from(client: AsyncClient) -> None:
    answer = await client.post(EMBEDDINGS, files=crop_form([0]))

    report = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-id"] == report["model_id"] == "tiny-reid@1"
    assert report["preprocess_id"] == "reid-1"
    assert report["dim"] == DIM == len(report["embeddings"][0])
    assert report["normalised"] is True
    assert report["modalities"] == ["rgb", "nir"]
    assert report["encoding"] == "float"
    assert report["warnings"] == []
    assert {"wait", "decode", "preprocess", "queue", "infer"} <= set(report["timings_ms"])


@pytest.mark.parametrize("count", [1, 8, 19, 64])
async def test_every_pair_gets_its_own_embedding_in_order(client: AsyncClient, count: int) -> None:
    found = vectors(await client.post(EMBEDDINGS, files=crop_form(range(count))))

    expected = embedded(*map(crops, range(count)))
    np.testing.assert_allclose(found, expected, atol=ARITHMETIC)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=ARITHMETIC)


async def test_an_embedding_is_the_same_alone_or_batched(client: AsyncClient) -> None:
    together = vectors(await client.post(EMBEDDINGS, files=crop_form(range(11))))

    alone = [vectors(await client.post(EMBEDDINGS, files=crop_form([i]))) for i in range(11)]

    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=ARITHMETIC)


async def test_each_caller_gets_its_own_embeddings(client: AsyncClient) -> None:
    starts = range(0, 160, 10)
    posts = (client.post(EMBEDDINGS, files=crop_form(range(i, i + 10))) for i in starts)

    answers = await asyncio.gather(*posts)

    for start, answer in zip(starts, answers, strict=True):
        expected = embedded(*map(crops, range(start, start + 10)))
        np.testing.assert_allclose(vectors(answer), expected, atol=ARITHMETIC)


async def test_base64_holds_the_same_float32_as_the_numbers(client: AsyncClient) -> None:
    numbers = vectors(await client.post(EMBEDDINGS, files=crop_form(range(3))))

    answer = await client.post(f"{EMBEDDINGS}?encoding=base64", files=crop_form(range(3)))

    report = answer.json()
    assert report["encoding"] == "base64"
    read = [np.frombuffer(base64.b64decode(text), "<f4") for text in report["embeddings"]]
    np.testing.assert_array_equal(read, numbers)


async def test_the_expected_model_answers_and_another_is_a_conflict(client: AsyncClient) -> None:
    for url, files in (
        (EMBEDDINGS, crop_form([0])),
        (SIMILARITY, [*crop_form([0], "query_"), *crop_form([1], "gallery_")]),
    ):
        right = await client.post(f"{url}?expect_model=tiny-reid@1", files=files)
        wrong = await client.post(f"{url}?expect_model=tiny-reid@2", files=files)

        assert right.status_code == 200
        problem = wrong.json()
        assert (wrong.status_code, problem["code"]) == (409, "model_mismatch")
        assert problem["field"] == "expect_model"
        assert "tiny-reid@1" in problem["detail"]
        assert "tiny-reid@2" in problem["detail"]


def nir_of(embedding: Rows) -> NDArray[np.float32]:
    """The near-infrared of each cell, which the echo answers beside a constant 1."""
    return np.asarray(embedding[1:].reshape(16, 4)[:, 3] / embedding[0])


# Neighbouring levels that 8 bits, taken from the top, would make one.
DEEP = (np.arange(16, dtype=np.uint16).reshape(4, 4) + 1000).repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize(
    "nir",
    [
        pytest.param(encoded(DEEP), id="png"),
        pytest.param(encoded(DEEP, "TIFF"), id="tiff"),
        pytest.param(
            encoded(Image.frombytes("I;16B", (SIDE, SIDE), DEEP.astype(">u2").tobytes()), "TIFF"),
            id="tiff-big-endian",
        ),
    ],
)
async def test_16_bit_near_infrared_keeps_its_levels(client: AsyncClient, nir: bytes) -> None:
    (found,) = vectors(await client.post(EMBEDDINGS, files=form([encoded(noise())], [nir])))

    # A level is 1.5e-5 of the full range.
    np.testing.assert_allclose(nir_of(found), (np.arange(16) + 1000) / 65535, atol=ARITHMETIC)


async def test_near_infrared_is_scaled_by_its_range_not_by_what_it_holds(
    client: AsyncClient,
) -> None:
    dark = np.where(ramp() > 99, 40, 20).astype(np.uint8)

    (found,) = vectors(
        await client.post(EMBEDDINGS, files=form([encoded(noise())], [encoded(dark)]))
    )

    near = nir_of(found)
    np.testing.assert_allclose([near.min(), near.max()], [20 / 255, 40 / 255], atol=ARITHMETIC)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
async def test_grey_in_a_colour_file_is_near_infrared(client: AsyncClient, mode: str) -> None:
    rgb, nir = crops(0)
    grey = encoded(Image.fromarray(nir).convert(mode))

    found = vectors(await client.post(EMBEDDINGS, files=form([encoded(rgb)], [grey])))

    np.testing.assert_allclose(found, embedded((rgb, nir)), atol=ARITHMETIC)


async def test_exif_turns_both_pictures_alike(client: AsyncClient) -> None:
    rgb, nir = crops(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = [
        encoded(Image.fromarray(each).transpose(Image.Transpose.ROTATE_90), exif=exif)
        for each in (rgb, nir)
    ]

    found = vectors(await client.post(EMBEDDINGS, files=form(turned[:1], turned[1:])))
    half = await client.post(EMBEDDINGS, files=form(turned[:1], [encoded(nir)]))

    np.testing.assert_allclose(found, embedded((rgb, nir)), atol=ARITHMETIC)
    (warning,) = half.json()["warnings"]
    assert "rgb[0]" in warning
    assert "EXIF" in warning


async def test_constant_pictures_are_answered_with_a_warning_that_names_them(
    client: AsyncClient,
) -> None:
    # Of another size than the network's: resizing must not hide it.
    dull, grey = np.full((70, 90, 3), 13, np.uint8), np.full((70, 90), 12345, np.uint16)
    rgb, nir = encoded(noise(70, 90)), encoded(ramp(70, 90))
    files = form([rgb, encoded(dull), rgb], [encoded(grey), nir, nir])

    answer = await client.post(EMBEDDINGS, files=files)

    assert answer.json()["warnings"] == ["nir[0] is constant", "rgb[1] is constant"]


async def test_resize_takes_near_infrared_of_another_size(client: AsyncClient) -> None:
    files = form([encoded(noise(128, 64))], [encoded(ramp(64, 32))])

    assert (await client.post(EMBEDDINGS, files=files)).status_code == 422
    assert (await client.post(f"{EMBEDDINGS}?resize=true", files=files)).status_code == 200


async def test_similarity_ranks_the_gallery_for_each_query(client: AsyncClient) -> None:
    order = [3, 0, 2, 5, 1, 4, 6]
    queries, gallery = crop_form(range(5), "query_"), crop_form(order, "gallery_")

    answer = await client.post(SIMILARITY, files=[*queries, *gallery])

    report = answer.json()
    cosines = embedded(*map(crops, range(5))) @ embedded(*map(crops, order)).T
    assert (report["model_id"], report["dim"]) == ("tiny-reid@1", DIM)
    assert [entry["query"] for entry in report["queries"]] == list(range(5))
    for query, entry in enumerate(report["queries"]):
        matches = entry["matches"]
        assert matches[0]["gallery"] == order.index(query)
        assert matches[0]["similarity"] == pytest.approx(1, abs=ARITHMETIC)
        assert sorted(match["gallery"] for match in matches) == list(range(7))
        values = [match["similarity"] for match in matches]
        assert values == sorted(values, reverse=True)
        found = {match["gallery"]: match["similarity"] for match in matches}
        np.testing.assert_allclose([found[i] for i in range(7)], cosines[query], atol=ARITHMETIC)


async def test_equals_keep_their_order_and_top_k_cuts_the_rest(client: AsyncClient) -> None:
    files = [*crop_form([1], "query_"), *crop_form([0, 1, 1], "gallery_")]

    answer = await client.post(f"{SIMILARITY}?top_k=2", files=files)

    (ranking,) = answer.json()["queries"]
    assert [match["gallery"] for match in ranking["matches"]] == [1, 2]


async def test_64_pairs_are_taken_queries_and_gallery_together(client: AsyncClient) -> None:
    files = [*crop_form(range(30), "query_"), *crop_form(range(34), "gallery_")]

    answer = await client.post(f"{SIMILARITY}?top_k=1", files=files)

    best = [entry["matches"][0]["gallery"] for entry in answer.json()["queries"]]
    assert best == list(range(30))


async def test_server_timing_names_every_stage_once(client: AsyncClient) -> None:
    answer = await client.post(EMBEDDINGS, files=crop_form(range(20)))

    stages = [stage.split(";")[0] for stage in answer.headers["server-timing"].split(", ")]
    assert stages[0] == "receive"
    assert stages[-2:] == ["encode", "total"]
    assert sorted(stages[1:-2]) == sorted(["wait", "decode", "preprocess", "queue", "infer"])


async def test_a_stage_entered_twice_adds_up() -> None:
    times = StageTimes()

    for seconds in (0.5, 0.25):
        times.record("decode", seconds)

    assert times.milliseconds()["decode"] == 750


async def test_pairs_of_several_requests_share_batches_of_bounded_size(
    serve: Serve, both_bundles: Path
) -> None:
    sizes: list[int] = []

    class Counting(EchoEmbeddingRuntime):
        def run(self, rgb: NDArray[np.uint8], aux: Rows) -> Rows:
            sizes.append(len(rgb))
            return super().run(rgb, aux)

    def make_runtime(bundle: Any, _settings: Any) -> Any:
        return Counting() if bundle.manifest.task == "reid" else echo("saliency")

    async with serve(
        bundles=both_bundles, make_runtime=make_runtime, max_batch=8, max_queue_delay_ms=1000
    ) as client:
        sizes.clear()
        posts = (client.post(EMBEDDINGS, files=crop_form(range(20))) for _ in range(4))
        answers = await asyncio.gather(*posts)

    assert {answer.status_code for answer in answers} == {200}
    assert sizes == [8] * 10


async def test_of_waits_the_longest_counts_and_a_batch_counts_once() -> None:
    times = StageTimes()

    for batch, size in ((1, 2), (1, 2), (2, 8)):
        times.waited("queue", size / 10)
        times.ran(batch, size, 0.25)

    assert times.milliseconds()["queue"] == 800
    assert times.milliseconds()["infer"] == 500
    assert 'infer;dur=500;desc="batch of 8"' in times.server_timing()


async def test_a_failed_run_is_a_500_and_ends_readiness(serve: Serve, both_bundles: Path) -> None:
    class Failing(EchoEmbeddingRuntime):
        failing = False

        def run(self, rgb: NDArray[np.uint8], aux: Rows) -> Rows:
            if self.failing:
                raise RuntimeFailure("as told")
            return super().run(rgb, aux)

    runtime = Failing()
    async with serve(
        bundles=both_bundles,
        make_runtime=lambda bundle, _: runtime if bundle.manifest.task == "reid" else echo(""),
    ) as client:
        runtime.failing = True
        failed = await client.post(EMBEDDINGS, files=crop_form(range(20)))
        ready = await client.get("/readyz")

    assert (failed.status_code, failed.json()["code"]) == (500, "inference_failed")
    assert ready.status_code == 503


async def test_one_service_answers_both_tasks(client: AsyncClient) -> None:
    saliency = await client.post("/v1/saliency", files=pair())
    listed = (await client.get("/v1/models")).json()["models"]

    assert saliency.headers["x-model-id"] == "tiny@1"
    assert [(model["model_id"], model["default"]) for model in listed] == [
        ("tiny@1", True),
        ("tiny-reid@1", True),
    ]
    assert listed[1]["manifest"]["dim"] == DIM


async def test_without_a_bundle_for_the_task_there_is_no_model(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post(EMBEDDINGS, files=crop_form([0]))

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (404, "unknown_model")
    assert problem["detail"] == "no bundle serves reid"


async def test_a_saliency_bundle_does_not_answer_embeddings(client: AsyncClient) -> None:
    answer = await client.post(f"{EMBEDDINGS}?model=tiny", files=crop_form([0]))

    assert (answer.status_code, answer.json()["field"]) == (404, "model")


async def test_a_request_chooses_among_models(serve: Serve, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(tmp_path / name, task="reid")

    async with serve(bundles=tmp_path, default_model="two") as client:
        default = await client.post(EMBEDDINGS, files=crop_form([0]))
        chosen = await client.post(f"{EMBEDDINGS}?model=one", files=crop_form([0]))

    assert default.json()["model_id"] == "two@1"
    assert chosen.json()["model_id"] == "one@1"
