"""Pairs that can be answered but look odd, and pairs of which one picture is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from tests.app.conftest import Serve
from tests.app.test_metrics import key, read
from tests.app.tiny import DIM, crop_form, crops, embedded, encoded, noise, npy, pair, ramp
from tests.app.tiny import write_bundle as write

pytestmark = pytest.mark.anyio

URL = "/v1/saliency?output=json"
EMBEDDINGS = "/v1/reid/embeddings"


def without(channel: int, level: int) -> bytes:
    picture = noise()
    picture[..., channel] = level
    return encoded(picture)


def mostly(values: NDArray[np.generic], level: int) -> NDArray[np.generic]:
    """All but the top four rows at one level."""
    values = values.copy()
    values[4:] = level
    return values


HOLES = np.full((64, 64), np.nan, np.float32)
HOLES[16:48, 16:48] = ramp(32, 32)
MILLIMETRES = (800 + 40 * np.arange(64 * 64).reshape(64, 64) // 64).astype(np.uint16)
MILLIMETRES[:4] = 0
ODD = {
    "constant": ({"rgb": encoded(np.full_like(noise(), 9))}, "rgb is constant"),
    "no-blue": ({"rgb": without(2, 0)}, "the blue channel of rgb is constant"),
    "overexposed": (
        {"rgb": encoded(mostly(noise(), 255))},
        "rgb is saturated in 94% of its pixels",
    ),
    "flat": ({"depth": encoded(np.full((64, 64), 9, np.uint8))}, "depth is constant"),
    "too-near": (
        {"depth": encoded(mostly(ramp(), 255))},
        "depth is saturated in 94% of its pixels",
    ),
    "holes": ({"depth": npy(HOLES)}, "depth is missing in 75% of its pixels"),
    "millimetres": (
        {"depth": encoded(MILLIMETRES)},
        "depth looks like millimetres with 0 for missing: is it depth_convention=metric?",
    ),
    "swapped": (
        {"rgb": encoded(ramp()), "depth": encoded(noise()[..., 0])},
        "rgb has no colour and is smoother than depth: are the two swapped?",
    ),
}


@pytest.mark.parametrize(("files", "warning"), ODD.values(), ids=ODD)
async def test_an_odd_pair_is_answered_with_a_warning(
    client: AsyncClient, files: dict[str, bytes], warning: str
) -> None:
    answer = await client.post(URL, files=pair(**files))

    assert answer.status_code == 200
    assert answer.json()["warnings"] == [warning]
    assert answer.headers["x-warnings"] == warning


async def test_neither_a_good_pair_nor_a_grey_or_red_photo_nor_a_white_background_is_odd(
    client: AsyncClient,
) -> None:
    white = np.full_like(noise(), 255)
    white[16:48, 16:48] = noise()[16:48, 16:48]
    red = noise()
    red[2:, :, 0] = 255
    for rgb in (noise(), noise()[..., :1].repeat(3, axis=2), red, white):
        answer = await client.post(URL, files=pair(encoded(rgb)))

        assert answer.json()["warnings"] == []
        assert "x-warnings" not in answer.headers


async def test_millimetres_that_are_read_as_such_and_full_16_bit_ranges_are_not_odd(
    client: AsyncClient,
) -> None:
    metric = await client.post(
        f"{URL}&depth_convention=metric", files=pair(depth=encoded(MILLIMETRES))
    )
    bright = await client.post(URL, files=pair(depth=encoded(MILLIMETRES * 15)))

    assert (metric.json()["warnings"], bright.json()["warnings"]) == ([], [])


async def test_the_header_holds_a_few_warnings_and_the_answer_all(
    serve: Serve, both_bundles: Path
) -> None:
    flat = [("rgb", (f"{i}", encoded(np.full_like(noise(), i)))) for i in range(20)]
    grey = [("nir", (f"{i}", encoded(ramp()))) for i in range(20)]
    async with serve(bundles=both_bundles) as client:
        answer = await client.post(EMBEDDINGS, files=flat + grey)

    assert answer.json()["warnings"] == [f"rgb[{i}] is constant" for i in range(20)]
    assert answer.headers["x-warnings"].endswith("rgb[7] is constant; and 12 more")


@pytest.fixture
async def lenient(serve: Serve, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """Bundles that do without depth and near-infrared."""
    for name, task in (("tiny", "saliency"), ("tiny-reid", "reid")):
        write(tmp_path / name, task=task, modality_policy="substitute")
    async with serve(bundles=tmp_path) as client:
        yield client


async def test_depth_that_is_missing_is_zero_where_the_bundle_allows_it(
    lenient: AsyncClient,
) -> None:
    rgb = {"rgb": pair()["rgb"]}
    answer = await lenient.post(f"{URL}&size=model", files=rgb)
    picture = await lenient.post("/v1/saliency?output=npy&size=model", files=rgb)
    whole = await lenient.post(URL, files=pair())
    samples = await read(lenient)

    grey = noise().mean(axis=-1, dtype=np.float32) / 255
    assert answer.json()["mean"] == pytest.approx(grey.mean() / 2, abs=1e-5)
    assert answer.json()["substituted"] == "depth"
    assert picture.headers["x-substituted"] == "depth"
    assert whole.json()["substituted"] is None
    assert "x-substituted" not in whole.headers
    assert "x-depth-convention" not in picture.headers
    labels = {"model": "tiny@1", "modality": "depth"}
    assert samples[key("mutualformer_substituted_total", **labels)] == 2


async def test_near_infrared_that_is_missing_is_zero_where_the_bundle_allows_it(
    lenient: AsyncClient,
) -> None:
    answer = await lenient.post(
        EMBEDDINGS, files=[part for part in crop_form(range(3)) if part[0] == "rgb"]
    )
    samples = await read(lenient)

    dark = [(crops(seed)[0], np.zeros_like(crops(seed)[1])) for seed in range(3)]
    report = answer.json()
    assert report["modalities"] == ["rgb"]
    assert report["dim"] == DIM
    np.testing.assert_allclose(report["embeddings"], embedded(*dark), atol=1e-6)
    labels = {"model": "tiny-reid@1", "modality": "nir"}
    assert samples[key("mutualformer_substituted_total", **labels)] == 3


@pytest.mark.parametrize(("url", "field"), [(URL, "depth"), (EMBEDDINGS, "nir")])
async def test_a_missing_picture_is_refused_where_the_bundle_does_not_allow_it(
    serve: Serve, both_bundles: Path, url: str, field: str
) -> None:
    async with serve(bundles=both_bundles) as client:
        answer = await client.post(url, files={"rgb": ("a", encoded(noise()))})

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert (problem["field"], problem["detail"]) == (field, f"form field '{field}' is missing")


async def test_half_the_near_infrared_is_no_policy(lenient: AsyncClient) -> None:
    parts = crop_form(range(2))
    answer = await lenient.post(EMBEDDINGS, files=parts[:3])

    assert answer.status_code == 422
