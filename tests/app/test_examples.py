"""The example pairs: what the files are, that their generators make them, and that they serve."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from PIL import Image

from examples.make_vehicles import CAMERAS, SIDE, VEHICLES, crop
from tests.app.conftest import Serve
from tests.app.tiny import Part, form

FOLDER = Path(__file__).parents[2] / "examples"
CONVENTIONS = {"vase": "near_bright", "mug": "metric", "cone": "near_dark"}


def picture(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_pair_and_its_object_have_one_size(name: str) -> None:
    rgb, depth = picture(FOLDER / f"{name}_rgb.jpg"), picture(FOLDER / f"{name}_depth.png")
    gt = picture(FOLDER / "gt" / f"{name}.png")

    assert rgb.shape == (480, 640, 3)
    assert depth.shape == gt.shape == (480, 640)
    assert set(np.unique(gt)) == {0, 255}
    assert 0.02 < (gt == 255).mean() < 0.3


def test_the_metric_depth_has_16_bits_and_holes() -> None:
    depth = picture(FOLDER / "mug_depth.png")

    assert depth.dtype == np.uint16
    assert 0.005 < (depth == 0).mean() < 0.1
    assert 300 < depth[depth > 0].min() < depth.max() < 2000  # millimetres on a desk


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_*.*g")), ids=lambda path: path.name)
def test_a_file_is_small(path: Path) -> None:
    assert path.stat().st_size < 120_000


def test_the_generator_makes_the_files_that_are_here() -> None:
    generator = runpy.run_path(str(FOLDER / "make_examples.py"))

    rendering = generator["render"](generator["vase"](), seed=1)

    assert np.mean((rendering.thing == 0) == (picture(FOLDER / "gt" / "vase.png") == 255)) > 0.999
    # JPEG's loss, and rounding that differs between processors.
    error = 255 * rendering.rgb - picture(FOLDER / "vase_rgb.jpg")
    assert np.abs(error).mean() < 3
    depth = generator["near_bright"](rendering.depth).astype(int)
    assert np.abs(depth - picture(FOLDER / "vase_depth.png")).mean() < 0.1


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "convention"), CONVENTIONS.items())
async def test_an_example_is_served(client: AsyncClient, name: str, convention: str) -> None:
    answer = await client.post(
        f"/v1/saliency?depth_convention={convention}&output=json",
        files={
            "rgb": (FOLDER / f"{name}_rgb.jpg").read_bytes(),
            "depth": (FOLDER / f"{name}_depth.png").read_bytes(),
        },
    )

    assert answer.status_code == 200
    assert answer.json()["size"] == {"width": 640, "height": 480}
    assert answer.json()["warnings"] == []


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("vehicle", VEHICLES)
def test_a_pair_of_crops_has_one_size_and_8_or_16_bits(vehicle: str, camera: str) -> None:
    rgb = picture(FOLDER / f"{vehicle}_{camera}_rgb.jpg")
    nir = picture(FOLDER / f"{vehicle}_{camera}_nir.png")

    assert rgb.shape == (SIDE, SIDE, 3)
    assert nir.shape == (SIDE, SIDE)
    assert nir.dtype == (np.uint8 if camera == "a" else np.uint16)
    assert nir.std() > 0.1 * np.iinfo(nir.dtype).max


def test_the_generator_makes_the_crops_that_are_here() -> None:
    rendered = crop("hatchback", "a", nir=True)

    error = 255 * rendered.mean(axis=-1) - picture(FOLDER / "hatchback_a_nir.png")
    assert np.abs(error).mean() < 0.5  # rounding, which differs between processors


def sent(crops: Iterable[str], prefix: str) -> list[Part]:
    names = list(crops)
    rgb = [(FOLDER / f"{name}_rgb.jpg").read_bytes() for name in names]
    return form(rgb, [(FOLDER / f"{name}_nir.png").read_bytes() for name in names], prefix)


@pytest.mark.anyio
async def test_example_crops_find_their_vehicle_again(serve: Serve, both_bundles: Path) -> None:
    files = [
        *sent(("van_a", "hatchback_a"), "query_"),
        *sent(("hatchback_b", "van_b"), "gallery_"),
    ]

    async with serve(bundles=both_bundles) as client:
        answer = await client.post("/v1/reid/similarity", files=files)

    report = answer.json()
    assert [entry["matches"][0]["gallery"] for entry in report["queries"]] == [1, 0]
    assert report["warnings"] == []
