"""Requests that cannot be answered: each gets a 4xx that names its field, and nothing breaks."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
from httpx import AsyncClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import BadPicture, Place
from app.images import DEPTH, DecodedPair, Limits, Upload, decode_pair
from tests.app.conftest import Serve
from tests.app.tiny import (
    SIDE,
    encoded,
    noise,
    npy,
    npy_with_header,
    pair,
    png,
    ramp,
)

URL = "/v1/saliency"


def frames(kind: str) -> bytes:
    still = Image.fromarray(noise())
    return encoded(still, kind, save_all=True, append_images=[Image.fromarray(noise(seed=1))])


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(ramp()).convert(mode)
    image.putalpha(Image.fromarray(ramp()))
    return image


EITHER = {
    "truncated-jpeg": (encoded(ramp(), "JPEG")[:500], 422, "unreadable_picture"),
    "truncated-png": (encoded(ramp())[:100], 422, "unreadable_picture"),
    "text": (b"these are words, not pixels\n" * 9, 422, "unreadable_picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "unreadable_picture"),
    "empty": (b"", 422, "unreadable_picture"),
    "one-by-one": (encoded(ramp(1, 1)), 422, "picture_too_small"),
    "thin": (encoded(ramp(15, 400)), 422, "picture_too_small"),
    "30000x30000": (png(30_000, 30_000), 413, "picture_too_large"),
    "just-too-many-pixels": (png(7072, 7071), 413, "picture_too_large"),
    "animated-gif": (frames("GIF"), 422, "unreadable_picture"),
    "animated-png": (frames("PNG"), 422, "multiple_frames"),
    "two-page-tiff": (frames("TIFF"), 422, "multiple_frames"),
}
RGB_ONLY = {
    "animated-webp": (frames("WEBP"), 422, "multiple_frames"),
    "16-bit-depth": (encoded(ramp().astype(np.uint16)), 422, "unsupported_picture"),
    "npy": (npy(noise()), 422, "unreadable_picture"),
}
DEPTH_ONLY = {
    "colour-jpeg": (encoded(noise(), "JPEG"), 422, "not_depth"),
    "colour-palette": (encoded(Image.fromarray(noise()).convert("P")), 422, "not_depth"),
    "cmyk": (encoded(Image.fromarray(noise()).convert("CMYK"), "TIFF"), 422, "not_depth"),
    "one-bit": (encoded(Image.fromarray(ramp()).convert("1")), 422, "not_depth"),
    "transparent-la": (encoded(transparent("LA")), 422, "not_depth"),
    "transparent-rgba": (encoded(transparent("RGBA")), 422, "not_depth"),
    "npy-pickle": (npy(np.array([None]), allow_pickle=True), 422, "not_depth"),
    "npy-bool": (npy(ramp() > 9), 422, "not_depth"),
    "npy-complex": (npy(ramp() * 1j), 422, "not_depth"),
    "npy-colour": (npy(noise()), 422, "not_depth"),
    "npy-no-axes": (npy(3.0), 422, "not_depth"),
    "npy-all-missing": (npy(np.full((SIDE, SIDE), np.nan)), 422, "not_depth"),
    "npy-beyond-float32": (npy(np.tile([-1e308, 1e308], (SIDE, SIDE // 2))), 422, "not_depth"),
    "npy-long-header": (npy_with_header(b" " * 60_000), 422, "unreadable_picture"),
    "npy-nested-header": (npy_with_header(b"(" * 9_000), 422, "unreadable_picture"),
    "npy-claims-40-gb": (
        npy_with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000)}"),
        413,
        "picture_too_large",
    ),
    "npy-negative": (
        npy_with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-64, -64)}"),
        422,
        "picture_too_small",
    ),
    "npy-cut-short": (npy(ramp())[:-1], 422, "unreadable_picture"),
    "npy-version-3": (b"\x93NUMPY\x03\x00" + bytes(64), 422, "unreadable_picture"),
    "webp": (encoded(ramp(), "WEBP"), 422, "unreadable_picture"),
}
CASES = [
    pytest.param(field, data, status, code, id=f"{field}-{name}")
    for field, cases in (
        ("rgb", EITHER | RGB_ONLY),
        ("depth", EITHER | DEPTH_ONLY),
    )
    for name, (data, status, code) in cases.items()
]


@pytest.mark.anyio
@pytest.mark.parametrize(("field", "data", "status", "code"), CASES)
async def test_a_bad_picture_is_refused_by_name_and_the_service_goes_on(
    client: AsyncClient, field: str, data: bytes, status: int, code: str
) -> None:
    refused = await client.post(URL, files=pair(**{field: data}))
    next_one = await client.post(URL, files=pair())

    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (status, code, field)
    assert problem["status"] == status
    assert refused.headers["content-type"] == "application/problem+json"
    assert "total" in refused.headers["server-timing"]
    assert next_one.status_code == 200


@pytest.mark.anyio
async def test_16_bit_colour_is_not_cut_to_8_bit_depth(client: AsyncClient) -> None:
    # Pillow cannot write 16-bit grey with alpha, but would read it as 8-bit RGBA.
    values = np.dstack([ramp().astype(">u2") * 256, np.full((SIDE, SIDE), 65535, ">u2")])
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    depth = png(SIDE, SIDE, bits=16, colour_type=4, rows=rows)

    answer = await client.post(URL, files=pair(depth=depth))

    assert (answer.status_code, answer.json()["code"]) == (422, "not_depth")


@pytest.mark.anyio
@pytest.mark.parametrize("missing", ["rgb", "depth"])
async def test_a_missing_field_is_named(client: AsyncClient, missing: str) -> None:
    files = pair()
    del files[missing]

    answer = await client.post(URL, files=files)

    assert (answer.status_code, answer.json()["field"]) == (422, missing)


@pytest.mark.anyio
async def test_a_field_that_is_no_file_is_named(client: AsyncClient) -> None:
    answer = await client.post(URL, files={"rgb": pair()["rgb"]}, data={"depth": "words"})

    assert (answer.status_code, answer.json()["field"]) == (422, "depth")


@pytest.mark.anyio
async def test_an_option_in_the_form_is_refused_rather_than_ignored(client: AsyncClient) -> None:
    answer = await client.post(URL, files=pair(), data={"depth_convention": "metric"})

    assert (answer.status_code, answer.json()["field"]) == (422, "depth_convention")


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["rgb", "depth"])
async def test_a_field_sent_twice_is_named(client: AsyncClient, field: str) -> None:
    files = [*pair().items(), (field, pair()[field])]

    answer = await client.post(URL, files=files)

    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert "2 files" in answer.json()["detail"]


@pytest.mark.anyio
async def test_many_more_files_than_fields_are_told_the_fields(client: AsyncClient) -> None:
    answer = await client.post(URL, files=[("rgb", pair()["rgb"])] * 9)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "malformed_request")
    assert "Too many files" in problem["detail"]
    assert "multipart/form-data with the files rgb and depth" in problem["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["image/jpeg", "application/x-www-form-urlencoded", None])
async def test_a_body_that_is_no_form_is_told_what_to_send(
    client: AsyncClient, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}

    answer = await client.post(URL, content=encoded(noise(), "JPEG"), headers=headers)

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (
        422,
        "invalid_request",
        "rgb",
    )
    assert (kind or "no stated type") in problem["detail"]
    assert "multipart/form-data with the files rgb and depth" in problem["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("output=gif", "output"),
        ("ouput=mask", "ouput"),
        ("threshold=1.5", "threshold"),
        ("threshold=nan", "threshold"),
        ("size=huge", "size"),
        ("depth_convention=inverse", "depth_convention"),
    ],
)
async def test_a_bad_parameter_is_named(client: AsyncClient, query: str, field: str) -> None:
    answer = await client.post(f"{URL}?{query}", files=pair())

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (
        422,
        "invalid_request",
        field,
    )


@pytest.mark.anyio
async def test_an_unknown_model_is_a_404_that_names_it(client: AsyncClient) -> None:
    answer = await client.post(f"{URL}?model=huge", files=pair())

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (404, "unknown_model")
    assert "huge" in problem["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize("resize", ["true", "false"])
async def test_pictures_of_different_shape_are_no_pair(client: AsyncClient, resize: str) -> None:
    files = pair(encoded(noise(64, 64)), encoded(ramp(64, 80)))

    answer = await client.post(f"{URL}?resize={resize}", files=files)

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (
        422,
        "pair_mismatch",
        "depth",
    )
    assert "64 x 64" in problem["detail"]
    assert "80 x 64" in problem["detail"]
    assert "resize=true" not in problem["detail"]  # it would not help


@pytest.mark.anyio
async def test_another_size_needs_resize(client: AsyncClient) -> None:
    answer = await client.post(URL, files=pair(encoded(noise(64, 64)), encoded(ramp(32, 32))))

    assert (answer.status_code, answer.json()["code"]) == (422, "pair_mismatch")
    assert "resize=true" in answer.json()["detail"]


@pytest.mark.anyio
async def test_a_pair_of_which_only_one_was_turned_is_told_so(client: AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = encoded(Image.fromarray(noise(40, 64)), "JPEG", exif=exif)

    answer = await client.post(URL, files=pair(rgb, encoded(ramp(40, 64))))

    assert answer.status_code == 422
    assert "EXIF" in answer.json()["detail"]


@pytest.mark.anyio
async def test_metric_depth_without_a_measurement_is_refused(client: AsyncClient) -> None:
    nothing = encoded(np.zeros((SIDE, SIDE), np.uint16))

    answer = await client.post(f"{URL}?depth_convention=metric", files=pair(depth=nothing))

    assert (answer.status_code, answer.json()["code"]) == (422, "not_depth")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"no part"),
        ("application/x-www-form-urlencoded", b"rgb=1&depth=2"),
    ],
)
async def test_a_body_that_is_no_form_is_a_problem(
    client: AsyncClient, content_type: str, body: bytes
) -> None:
    answer = await client.post(URL, content=body, headers={"content-type": content_type})

    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.anyio
async def test_a_body_announced_as_too_large_is_refused_unread(serve: Serve) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield bytes(5000)

    async with serve(max_upload_bytes=4000) as client:
        answer = await client.post(URL, content=body(), headers={"content-length": "5000"})

    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
    assert read == 0


@pytest.mark.anyio
async def test_a_body_that_grows_too_large_is_cut_off(serve: Serve) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        yield b'--x\r\nContent-Disposition: form-data; name="rgb"; filename="a"\r\n\r\n'
        for _ in range(100):
            read += 1
            yield bytes(1000)

    async with serve(max_upload_bytes=4000) as client:
        answer = await client.post(
            URL, content=body(), headers={"content-type": "multipart/form-data; boundary=x"}
        )

    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
    assert read < 6


def decoded(rgb: bytes, depth: bytes, limits: Limits) -> DecodedPair:
    uploads = Upload(rgb, Place("rgb")), Upload(depth, Place("depth"))
    return decode_pair(*uploads, DEPTH, limits, resize=False)


SEEDS = [
    encoded(noise(20, 24), "JPEG"),
    encoded(noise(20, 24), "WEBP"),
    encoded(ramp(20, 24), "PNG"),
    encoded(ramp(20, 24).astype(np.uint16), "TIFF", compression="tiff_lzw"),
    encoded(ramp(20, 24), "BMP"),
    npy(ramp(20, 24)),
]


@settings(deadline=None, max_examples=300)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=5),
    kept=st.floats(0.2, 1),
)
def test_damaged_files_are_read_or_refused_but_never_crash(
    seed: bytes, edits: list[tuple[float, bytes]], kept: float
) -> None:
    damaged = bytearray(seed)
    for place, value in edits:
        start = int(place * len(seed))
        damaged[start : start + len(value)] = value
    data = bytes(damaged[: int(kept * len(damaged))])
    limits = Limits(max_pixels=10_000, min_side=16)

    for rgb, depth in ((data, SEEDS[2]), (SEEDS[0], data)):
        try:
            pictures = decoded(rgb, depth, limits)
        except BadPicture:
            pass
        else:
            assert pictures.rgb.size == pictures.aux.shape[::-1]


def test_decoding_leaves_no_file_open() -> None:
    data = io.BytesIO(encoded(noise()))

    pictures = decoded(data.getvalue(), encoded(ramp()), Limits(10_000, 16))

    assert pictures.rgb.getpixel((0, 0)) == tuple(noise()[0, 0])


@pytest.mark.anyio
async def test_an_upload_that_finds_no_room_on_disk_is_not_the_clients_fault(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    large = encoded(noise(1024, 1024))

    response = await client.post(URL, files=pair(large, large))
    small = await client.post(URL, files=pair())

    assert len(large) > 2**20
    assert response.status_code == 507
    assert response.json()["code"] == "storage_failed"
    assert small.status_code == 200
