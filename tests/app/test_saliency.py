"""`POST /v1/saliency`, good requests: every answer is compared with what the pair says it is."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from PIL import Image

from app.saliency import SaliencyPredictor
from model.preprocessing import prepare_depth, prepare_rgb
from model.runtimes.echo import EchoRuntime
from tests.app.conftest import Serve
from tests.app.tiny import SIDE, encoded, noise, npy, pair, ramp, write_bundle

pytestmark = pytest.mark.anyio

URL = "/v1/saliency"
# Answers leave as 8-bit pictures: half a level of rounding, and float32 arithmetic before it.
HALF_LEVEL = 0.5 / 255 + 1e-6


def echo(rgb: NDArray[np.uint8], depth: NDArray[np.generic]) -> NDArray[np.float32]:
    """The map that the echo runtime makes of a near-bright pair."""
    size = (SIDE, SIDE)
    prepared = prepare_rgb(Image.fromarray(rgb), size), prepare_depth(depth, "near_bright", size)
    (row,) = EchoRuntime().run(prepared[0][None], prepared[1][None])
    return np.asarray(row)


def picture(body: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(body)))


async def test_the_map_is_an_8_bit_png_of_the_size_of_the_sent_picture(client: AsyncClient) -> None:
    files = pair(encoded(noise(48, 100)), encoded(ramp(48, 100)))

    answer = await client.post(URL, files=files)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.mode, image.size) == ("L", (100, 48))


async def test_the_map_holds_what_the_network_answered(client: AsyncClient) -> None:
    answer = await client.post(URL, files=pair())

    np.testing.assert_allclose(
        picture(answer.content) / 255.0, echo(noise(), ramp()), atol=HALF_LEVEL
    )


async def test_size_model_answers_at_the_size_of_the_network(client: AsyncClient) -> None:
    files = pair(encoded(noise(48, 100)), encoded(ramp(48, 100)))

    answer = await client.post(f"{URL}?size=model", files=files)

    assert picture(answer.content).shape == (SIDE, SIDE)


async def test_map16_keeps_steps_that_8_bits_lose(client: AsyncClient) -> None:
    answer = await client.post(f"{URL}?output=map16", files=pair())

    values = picture(answer.content)
    assert values.dtype == np.uint16
    # Half a level of 16 bits, and float32 arithmetic.
    np.testing.assert_allclose(values / 65535.0, echo(noise(), ramp()), atol=0.5 / 65535 + 1e-6)


async def test_npy_is_the_map_in_float32(client: AsyncClient) -> None:
    answer = await client.post(f"{URL}?output=npy", files=pair())

    values = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert answer.headers["content-type"] == "application/x-npy"
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, echo(noise(), ramp()), atol=1e-6)  # float32 arithmetic


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
async def test_the_mask_is_white_from_the_threshold_on(
    client: AsyncClient, threshold: float
) -> None:
    saliency = np.load(io.BytesIO((await client.post(f"{URL}?output=npy", files=pair())).content))

    answer = await client.post(f"{URL}?output=mask&threshold={threshold}", files=pair())

    np.testing.assert_array_equal(picture(answer.content), np.where(saliency >= threshold, 255, 0))


async def test_the_cutout_keeps_colours_and_hides_what_is_far_below_the_threshold(
    client: AsyncClient,
) -> None:
    answer = await client.post(f"{URL}?output=cutout&threshold=0.5", files=pair())

    values, saliency = picture(answer.content), echo(noise(), ramp())
    assert values.shape == (SIDE, SIDE, 4)
    np.testing.assert_array_equal(values[..., :3], noise())
    assert (values[saliency < 0.39, 3] == 0).all()
    assert (values[saliency > 0.61, 3] == 255).all()


async def test_the_overlay_reddens_salient_pixels_only(client: AsyncClient) -> None:
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)

    answer = await client.post(f"{URL}?output=overlay", files=pair(encoded(rgb)))

    values = picture(answer.content)
    assert values.shape == (SIDE, SIDE, 3)
    assert values[0, 0].max() <= 1  # the far end of the ramp
    red, green, _ = values[-1, -1]
    assert red > 60 > green


async def test_json_describes_the_object(client: AsyncClient) -> None:
    rgb, depth = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    rgb[8:24, 30:50] = 255
    depth[8:24, 30:50] = 255
    mask = depth > 0

    answer = await client.post(f"{URL}?output=json", files=pair(encoded(rgb), encoded(depth)))

    report = answer.json()
    assert report["model_id"] == "tiny@1"
    assert report["size"] == {"width": SIDE, "height": SIDE}
    assert report["bounding_box"] == {"x": 30, "y": 8, "width": 20, "height": 16}
    assert report["area"] == report["mean"] == mask.mean()
    assert report["max"] == 1.0
    assert report["warnings"] == []
    np.testing.assert_array_equal(decode_runs(report["rle"]), mask)
    np.testing.assert_array_equal(picture(base64.b64decode(report["map_png_base64"])), 255 * mask)
    assert {"decode", "preprocess", "queue", "infer"} <= set(report["timings_ms"])


async def test_json_of_an_empty_mask_has_no_box(client: AsyncClient) -> None:
    black = np.zeros((SIDE, SIDE, 3), np.uint8)

    answer = await client.post(f"{URL}?output=json&threshold=0.9", files=pair(encoded(black)))

    report = answer.json()
    assert report["bounding_box"] is None
    assert report["rle"]["counts"] == [SIDE * SIDE]


def decode_runs(rle: dict[str, list[int]]) -> NDArray[np.bool_]:
    """As the COCO documentation describes uncompressed run lengths."""
    counts = rle["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    height, width = rle["size"]
    return flat.reshape(width, height).T


async def test_runs_of_a_mask_that_begins_white_begin_with_zero(client: AsyncClient) -> None:
    answer = await client.post(f"{URL}?output=json&threshold=0", files=pair())

    assert answer.json()["rle"]["counts"] == [0, SIDE * SIDE]


async def test_each_caller_gets_its_own_answer(client: AsyncClient) -> None:
    levels = range(0, 256, 16)
    constant = encoded(np.full((SIDE, SIDE), 9, np.uint8))
    posts = (
        client.post(
            f"{URL}?output=json",
            files=pair(encoded(np.full((SIDE, SIDE, 3), level, np.uint8)), constant),
        )
        for level in levels
    )

    answers = await asyncio.gather(*posts)

    means = [answer.json()["mean"] for answer in answers]
    # A constant depth map says nothing, which is 0.5; the echo halves both.
    assert means == pytest.approx([level / 510 + 0.25 for level in levels], abs=1e-6)


async def test_a_constant_depth_map_is_answered_with_a_warning(client: AsyncClient) -> None:
    constant = encoded(np.full((SIDE, SIDE), 9, np.uint8))

    answer = await client.post(f"{URL}?output=json", files=pair(depth=constant))

    assert answer.json()["warnings"] == ["depth is constant"]
    assert answer.headers["x-warnings"] == "depth is constant"


DEEP = np.linspace(1000, 1255, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
"""256 neighbouring levels that 8 bits, taken from the top, would make two."""


@pytest.mark.parametrize(
    "depth",
    [
        pytest.param(encoded(DEEP), id="png"),
        pytest.param(encoded(DEEP, "TIFF"), id="tiff"),
        pytest.param(encoded(DEEP, "TIFF", compression="tiff_deflate"), id="tiff-deflate"),
        pytest.param(
            encoded(Image.frombytes("I;16B", (SIDE, SIDE), DEEP.astype(">u2").tobytes()), "TIFF"),
            id="tiff-big-endian",
        ),
        pytest.param(encoded(DEEP.astype(np.int32), "TIFF"), id="tiff-32-bit"),
        pytest.param(encoded(DEEP.astype(np.float32), "TIFF"), id="tiff-float"),
        pytest.param(npy(DEEP), id="npy"),
        pytest.param(npy(DEEP.astype(">u2")), id="npy-big-endian"),
        pytest.param(npy(np.asfortranarray(DEEP)), id="npy-fortran"),
        pytest.param(npy(DEEP.astype(np.float64) / 1000), id="npy-metres"),
    ],
)
async def test_depth_keeps_more_than_8_bits(client: AsyncClient, depth: bytes) -> None:
    black = encoded(np.zeros((SIDE, SIDE, 3), np.uint8))

    answer = await client.post(f"{URL}?output=npy", files=pair(black, depth))

    near = 2 * np.load(io.BytesIO(answer.content))
    expected = (DEEP - 1000.0) / 255.0
    np.testing.assert_allclose(near, expected, atol=1e-6)  # float32 arithmetic


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("near_bright", [0.0, 0.25, 0.5, 1.0]),
        ("near_dark", [1.0, 0.75, 0.5, 0.0]),
        ("metric", [0.0, 1.0, 2 / 3, 0.0]),
    ],
)
async def test_the_depth_convention_is_obeyed_and_echoed(
    client: AsyncClient, convention: str, expected: list[float]
) -> None:
    depth = np.repeat(np.array([0, 1000, 2000, 4000], np.uint16), SIDE // 4)
    black = encoded(np.zeros((SIDE, SIDE, 3), np.uint8))
    files = pair(black, encoded(np.tile(depth, (SIDE, 1))))

    answer = await client.post(f"{URL}?output=npy&depth_convention={convention}", files=files)

    near = 2 * np.load(io.BytesIO(answer.content))
    np.testing.assert_allclose(near[0, 4 :: SIDE // 4], expected, atol=1e-6)
    assert answer.headers["x-depth-convention"] == convention


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_exif_turns_both_pictures_of_a_pair_alike(
    client: AsyncClient, orientation: int, kind: str
) -> None:
    rgb, depth = Image.fromarray(noise(40, 64)), Image.fromarray(DEEP[:40])
    upright = await client.post(f"{URL}?output=map16", files=pair(encoded(rgb), encoded(depth)))
    # What a camera held that way stores: the transposition that EXIF's undoes.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = [
        encoded(image if stored is None else image.transpose(stored), kind, exif=exif)
        for image in (rgb, depth)
    ]

    both = await client.post(f"{URL}?output=map16", files=pair(*turned))
    only_rgb = await client.post(f"{URL}?output=map16", files=pair(turned[0], encoded(depth)))

    assert both.content == upright.content
    assert only_rgb.content == upright.content


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
async def test_colour_is_taken_in_every_usual_mode(client: AsyncClient, mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    rgb = encoded(image, "TIFF" if mode == "CMYK" else "PNG")

    answer = await client.post(URL, files=pair(rgb))

    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
async def test_colour_is_taken_in_every_listed_format(client: AsyncClient, kind: str) -> None:
    answer = await client.post(URL, files=pair(encoded(noise(), kind)))

    assert answer.status_code == 200


async def test_a_phone_photo_with_a_second_frame_behind_it_is_a_photo(client: AsyncClient) -> None:
    first = Image.fromarray(noise())
    photo = encoded(first, "MPO", save_all=True, append_images=[first.resize((8, 8))])

    answer = await client.post(URL, files=pair(photo))

    assert answer.status_code == 200


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
async def test_grey_depth_in_a_colour_file_is_depth(client: AsyncClient, mode: str) -> None:
    plain = await client.post(URL, files=pair())

    answer = await client.post(
        URL, files=pair(depth=encoded(Image.fromarray(ramp()).convert(mode)))
    )

    assert answer.content == plain.content


async def test_grey_depth_in_a_colour_jpeg_is_depth(client: AsyncClient) -> None:
    depth = encoded(Image.fromarray(ramp()).convert("RGB"), "JPEG")

    answer = await client.post(URL, files=pair(depth=depth))

    assert answer.status_code == 200


async def test_resize_takes_a_smaller_depth_map_of_the_same_shape(client: AsyncClient) -> None:
    files = pair(encoded(noise(480, 640)), encoded(ramp(241, 320)))

    answer = await client.post(f"{URL}?resize=true", files=files)

    assert Image.open(io.BytesIO(answer.content)).size == (640, 480)


async def test_a_request_chooses_among_models(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("several")
    write_bundle(folder / "one", version="7")
    write_bundle(folder / "two", version="8")

    async with serve(bundles=folder, default_model="two") as client:
        chosen = await client.post(f"{URL}?model=one", files=pair())
        default = await client.post(URL, files=pair())

    assert chosen.headers["x-model-id"] == "one@7"
    assert default.headers["x-model-id"] == "two@8"


async def test_server_timing_names_every_stage(client: AsyncClient) -> None:
    answer = await client.post(URL, files=pair())

    stages = [stage.split(";")[0] for stage in answer.headers["server-timing"].split(", ")]
    assert stages == [
        "receive",
        "wait",
        "decode",
        "preprocess",
        "queue",
        "infer",
        "encode",
        "total",
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 0.98])
async def test_cutout_and_mask_agree_on_the_threshold(
    client: AsyncClient, threshold: float
) -> None:
    query = f"threshold={threshold}"
    mask = await client.post(f"{URL}?output=mask&{query}", files=pair())
    cutout = await client.post(f"{URL}?output=cutout&{query}", files=pair())

    kept = picture(mask.content) > 0
    opaque = picture(cutout.content)[..., 3] > 127

    assert np.mean(kept != opaque) < 0.01


async def test_a_pair_of_which_one_was_turned_is_answered_with_a_warning(
    client: AsyncClient,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: the size does not tell
    rgb = encoded(Image.fromarray(noise(64, 64)), "JPEG", exif=exif)
    depth = encoded(Image.fromarray(ramp(64, 64)), "PNG")

    answer = await client.post(URL, files=pair(rgb, depth))

    assert answer.status_code == 200
    assert "EXIF" in answer.headers["X-Warnings"]


async def test_few_pictures_are_decoded_at_once_and_none_waits_decoded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, most = 0, 0
    prepare = SaliencyPredictor._prepare
    lock = threading.Lock()

    def counted(*arguments: Any) -> Any:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        try:
            prepared = prepare(*arguments)
        finally:
            with lock:
                held -= 1
        assert {prepared.rgb.shape, prepared.aux.shape} == {(SIDE, SIDE, 3), (SIDE, SIDE, 1)}
        assert not any(isinstance(value, Image.Image) for value in vars(prepared).values())
        return prepared

    monkeypatch.setattr(SaliencyPredictor, "_prepare", counted)

    async with serve(decode_threads=2) as client:
        files = pair(encoded(noise(300, 400)), encoded(ramp(300, 400)))
        posts = (client.post(f"{URL}?output=cutout", files=files) for _ in range(24))
        answers = await asyncio.gather(*posts)

    assert {answer.status_code for answer in answers} == {200}
    assert 1 <= most <= 2


async def test_pairs_that_come_together_run_together_and_answer_as_alone(serve: Serve) -> None:
    sizes: list[int] = []

    class Counting(EchoRuntime):
        def run(self, rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
            sizes.append(len(rgb))
            return super().run(rgb, aux)

    async with serve(
        make_runtime=lambda _bundle, _settings: Counting(), max_batch=4, max_queue_delay_ms=1000
    ) as client:
        warmed_up, sizes = sizes, []
        forms = [pair(encoded(noise(seed=seed))) for seed in range(8)]
        answers = await asyncio.gather(
            *(client.post(f"{URL}?output=npy", files=files) for files in forms)
        )

    assert sorted(set(warmed_up)) == [1, 2, 4]
    assert sizes == [4, 4]
    for seed, answer in enumerate(answers):
        np.testing.assert_allclose(
            np.load(io.BytesIO(answer.content)), echo(noise(seed=seed), ramp()), atol=1e-6
        )
        assert 'desc="batch of 4"' in answer.headers["server-timing"]


@pytest.mark.parametrize(("dtype", "bits"), [("<u4", 0x7FA00000), ("<u2", 0x7D00)])
async def test_a_signalling_nan_is_missing_like_any_other(
    client: AsyncClient, dtype: str, bits: int
) -> None:
    depth = ramp().astype(dtype.replace("u", "f"))
    depth.view(dtype)[0, 0] = bits

    answer = await client.post(URL, files=pair(depth=npy(depth)))

    assert answer.status_code == 200
