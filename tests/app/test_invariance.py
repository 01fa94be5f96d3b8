"""An answer does not depend on its batch-mates, with the networks that ship."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient, Response
from PIL import Image

from app.service import make_runtime
from tests.app.conftest import Serve
from tests.app.tiny import Part, encoded

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-6  # float32 on a CPU; convolutions may sum in another order at another batch size


@pytest.fixture
async def shipped(serve: Serve) -> AsyncIterator[AsyncClient]:
    async with serve(
        bundles=ROOT / "bundles",
        make_runtime=make_runtime,
        max_batch=8,
        max_queue_delay_ms=1000,
        threads=1,
    ) as client:
        yield client


def views(count: int, aux: str, *names: tuple[str, str]) -> list[list[Part]]:
    """Different pairs, cut from examples."""
    forms = []
    for index in range(count):
        rgb, partner = names[index % len(names)]
        files = []
        for field, name in (("rgb", rgb), (aux, partner)):
            with Image.open(ROOT / "examples" / name) as picture:
                box = (4 * index, 2 * index, picture.width - index, picture.height - 3 * index)
                files.append((field, (name, encoded(picture.crop(box)))))
        forms.append(files)
    return forms


def batch_size(answer: Response) -> int:
    found = re.search(r"batch of (\d+)", answer.headers["server-timing"])
    assert found
    return int(found[1])


async def alone_and_together(
    client: AsyncClient, url: str, forms: list[list[Part]]
) -> tuple[list[Response], list[Response]]:
    together = await asyncio.gather(*(client.post(url, files=form) for form in forms))
    some = [await client.post(url, files=form) for form in forms[:3]]
    assert [batch_size(answer) for answer in some] == [1, 1, 1]
    assert min(batch_size(answer) for answer in together[:3]) >= 3
    return some, together[:3]


async def test_maps_are_equal_alone_and_in_a_batch(shipped: AsyncClient) -> None:
    forms = views(
        8, "depth", ("vase_rgb.jpg", "vase_depth.png"), ("cone_rgb.jpg", "cone_depth.png")
    )

    alone, together = await alone_and_together(shipped, "/v1/saliency?output=npy&size=model", forms)

    maps = [[np.load(io.BytesIO(answer.content)) for answer in side] for side in (alone, together)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=TOLERANCE)
    assert np.abs(maps[0][0] - maps[0][1]).max() > 0.1, "the pairs differ"


async def test_embeddings_are_equal_alone_and_in_a_batch(shipped: AsyncClient) -> None:
    names = [(f"{name}_rgb.jpg", f"{name}_nir.png") for name in ("van_a", "hatchback_a")]
    forms = views(8, "nir", *names)

    alone, together = await alone_and_together(shipped, "/v1/reid/embeddings", forms)

    vectors = [[answer.json()["embeddings"] for answer in side] for side in (alone, together)]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=TOLERANCE)
    assert np.abs(np.subtract(vectors[0][0], vectors[0][1])).max() > 0.01, "the pairs differ"
