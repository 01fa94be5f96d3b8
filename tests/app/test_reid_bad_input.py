"""Re-identification requests that cannot be answered: each gets a 4xx that says which picture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from PIL import Image

from tests.app.conftest import Serve
from tests.app.test_bad_input import frames, transparent
from tests.app.tiny import Part, crop_form, encoded, form, noise, npy, png, ramp

pytestmark = pytest.mark.anyio

EMBEDDINGS = "/v1/reid/embeddings"
SIMILARITY = "/v1/reid/similarity"
TRUNCATED = encoded(noise())[:200]


@pytest.fixture
async def client(serve: Serve, both_bundles: Path) -> AsyncIterator[AsyncClient]:
    async with serve(bundles=both_bundles) as started:
        yield started


def replaced(files: list[Part], field: str, index: int, data: bytes) -> list[Part]:
    """With other bytes in one picture."""
    place = [i for i, (name, _) in enumerate(files) if name == field][index]
    return [*files[:place], (field, ("x", data)), *files[place + 1 :]]


def said(answer: Any) -> tuple[int, str, str | None, int | None]:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, problem["code"], problem.get("field"), problem.get("index")


@pytest.mark.parametrize("field", ["rgb", "nir"])
@pytest.mark.parametrize("index", [0, 3, 9])
async def test_a_corrupt_picture_among_ten_is_named(
    client: AsyncClient, field: str, index: int
) -> None:
    files = replaced(crop_form(range(10)), field, index, TRUNCATED)

    answer = await client.post(EMBEDDINGS, files=files)
    next_one = await client.post(EMBEDDINGS, files=crop_form(range(10)))

    assert said(answer) == (422, "unreadable_picture", field, index)
    assert f"{field}[{index}]" in answer.json()["detail"]
    assert next_one.status_code == 200


async def test_of_several_corrupt_pictures_the_first_is_named(client: AsyncClient) -> None:
    files = crop_form(range(40))
    for field, index in (("rgb", 39), ("nir", 20), ("nir", 11)):
        files = replaced(files, field, index, TRUNCATED)

    answer = await client.post(EMBEDDINGS, files=files)

    assert said(answer) == (422, "unreadable_picture", "nir", 11)


@pytest.mark.parametrize("field", ["query_rgb", "query_nir", "gallery_rgb", "gallery_nir"])
async def test_a_corrupt_picture_of_a_similarity_request_is_named(
    client: AsyncClient, field: str
) -> None:
    files = [*crop_form(range(4), "query_"), *crop_form(range(7), "gallery_")]

    answer = await client.post(SIMILARITY, files=replaced(files, field, 2, TRUNCATED))

    assert said(answer) == (422, "unreadable_picture", field, 2)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        pytest.param(encoded(noise()), 422, "not_near_infrared", id="colour"),
        pytest.param(encoded(noise(), "JPEG"), 422, "not_near_infrared", id="colour-jpeg"),
        pytest.param(
            encoded(ramp().astype(np.float32), "TIFF"), 422, "not_near_infrared", id="float"
        ),
        pytest.param(
            encoded(ramp().astype(np.int32), "TIFF"), 422, "not_near_infrared", id="32-bit"
        ),
        pytest.param(
            encoded(Image.fromarray(ramp()).convert("1")), 422, "not_near_infrared", id="one-bit"
        ),
        pytest.param(encoded(transparent("LA")), 422, "not_near_infrared", id="transparent"),
        pytest.param(npy(ramp()), 422, "unreadable_picture", id="npy"),
        pytest.param(encoded(ramp(), "WEBP"), 422, "unreadable_picture", id="webp"),
        pytest.param(frames("TIFF"), 422, "multiple_frames", id="two-pages"),
        pytest.param(b"", 422, "unreadable_picture", id="empty"),
        pytest.param(encoded(ramp(8, 8)), 422, "picture_too_small", id="small"),
        pytest.param(png(30_000, 30_000), 413, "picture_too_large", id="huge"),
        pytest.param(encoded(ramp(32, 64)), 422, "pair_mismatch", id="other-size"),
    ],
)
async def test_what_is_no_near_infrared_partner_is_refused(
    client: AsyncClient, data: bytes, status: int, code: str
) -> None:
    answer = await client.post(EMBEDDINGS, files=replaced(crop_form(range(3)), "nir", 1, data))

    assert said(answer) == (status, code, "nir", 1)
    assert "depth" not in answer.json()["detail"]


async def test_16_bit_grey_as_rgb_is_refused(client: AsyncClient) -> None:
    deep = encoded(ramp().astype(np.uint16))

    answer = await client.post(EMBEDDINGS, files=replaced(crop_form(range(3)), "rgb", 2, deep))

    assert said(answer) == (422, "unsupported_picture", "rgb", 2)


@pytest.mark.parametrize(
    ("rgb", "nir", "field", "index"), [(3, 2, "nir", 2), (1, 4, "rgb", 1), (64, 63, "nir", 63)]
)
async def test_unequal_counts_name_the_first_picture_without_a_partner(
    client: AsyncClient, rgb: int, nir: int, field: str, index: int
) -> None:
    files = form([encoded(noise())] * rgb, [encoded(ramp())] * nir)

    answer = await client.post(EMBEDDINGS, files=files)

    assert said(answer) == (422, "invalid_request", field, index)
    assert f"{rgb} pictures in rgb and {nir} in nir" in answer.json()["detail"]


async def test_unequal_counts_in_the_gallery_are_named(client: AsyncClient) -> None:
    gallery = form([encoded(noise())], [encoded(ramp())] * 2, "gallery_")

    answer = await client.post(SIMILARITY, files=[*crop_form([0], "query_"), *gallery])

    assert said(answer) == (422, "invalid_request", "gallery_rgb", 1)


@pytest.mark.parametrize("count", [65, 128])
async def test_more_than_64_pairs_are_refused_with_the_limit(
    client: AsyncClient, count: int
) -> None:
    files = form([encoded(noise(16, 16))] * count, [encoded(ramp(16, 16))] * count)

    answer = await client.post(EMBEDDINGS, files=files)

    assert said(answer) == (422, "invalid_request", "rgb", None)
    assert f"{count} pairs; at most 64" in answer.json()["detail"]


async def test_far_too_many_files_are_refused_unread(client: AsyncClient) -> None:
    files = form([b"x"] * 300, [b"x"] * 300)

    answer = await client.post(EMBEDDINGS, files=files)

    assert said(answer) == (400, "malformed_request", None, None)


async def test_more_than_64_pairs_in_all_are_refused_for_similarity(client: AsyncClient) -> None:
    small = encoded(noise(16, 16)), encoded(ramp(16, 16))
    files = [
        *form([small[0]] * 32, [small[1]] * 32, "query_"),
        *form([small[0]] * 33, [small[1]] * 33, "gallery_"),
    ]

    answer = await client.post(SIMILARITY, files=files)

    assert said(answer) == (422, "invalid_request", "gallery_rgb", None)
    assert "at most 64" in answer.json()["detail"]


async def test_no_picture_at_all_names_the_field(client: AsyncClient) -> None:
    nothing = await client.post(EMBEDDINGS)
    only_rgb = await client.post(EMBEDDINGS, files=form([encoded(noise())], []))
    only_nir = await client.post(EMBEDDINGS, files=form([], [encoded(ramp())]))
    no_gallery = await client.post(SIMILARITY, files=crop_form([0], "query_"))

    assert said(nothing) == (422, "invalid_request", "rgb", None)
    assert said(only_rgb) == (422, "invalid_request", "nir", None)
    assert said(only_nir) == (422, "invalid_request", "rgb", None)
    assert said(no_gallery) == (422, "invalid_request", "gallery_rgb", None)


async def test_a_field_that_is_no_file_is_named_with_its_index(client: AsyncClient) -> None:
    files = crop_form(range(2))

    answer = await client.post(EMBEDDINGS, files=files, data={"nir": "words"})

    assert said(answer) == (422, "invalid_request", "nir", 0)


@pytest.mark.parametrize(
    ("url", "query", "field"),
    [
        (EMBEDDINGS, "encoding=hex", "encoding"),
        (EMBEDDINGS, "depth_convention=metric", "depth_convention"),
        (EMBEDDINGS, "top_k=1", "top_k"),
        (SIMILARITY, "top_k=0", "top_k"),
        (SIMILARITY, "encoding=float", "encoding"),
    ],
)
async def test_a_bad_parameter_is_named(
    client: AsyncClient, url: str, query: str, field: str
) -> None:
    files = [*crop_form([0], "query_"), *crop_form([0], "gallery_")]

    answer = await client.post(
        f"{url}?{query}", files=crop_form([0]) if url == EMBEDDINGS else files
    )

    assert said(answer) == (422, "invalid_request", field, None)


async def test_an_option_in_the_form_is_refused_rather_than_ignored(client: AsyncClient) -> None:
    answer = await client.post(EMBEDDINGS, files=crop_form([0]), data={"encoding": "base64"})

    assert said(answer) == (422, "invalid_request", "encoding", None)


async def test_the_saliency_form_takes_no_more_files_than_before(client: AsyncClient) -> None:
    files = crop_form(range(5))

    answer = await client.post("/v1/saliency", files=files)

    assert said(answer) == (400, "malformed_request", None, None)
