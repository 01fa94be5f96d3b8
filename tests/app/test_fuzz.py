"""Bodies that nobody would send: whatever it is, the answer is no 5xx."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import numpy as np
import pytest
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.app.conftest import Serve
from tests.app.process import serving
from tests.app.tiny import encoded, noise, npy, png, ramp

ROOT = Path(__file__).parents[2]
Post = Callable[..., Response]

PATHS = {
    "/v1/saliency": ("rgb", "depth"),
    "/v1/reid/embeddings": ("rgb", "nir"),
    "/v1/reid/similarity": ("query_rgb", "query_nir", "gallery_rgb", "gallery_nir"),
}


@pytest.fixture
def post(serve: Serve, both_bundles: Path) -> Iterator[Post]:
    """Posts to a service of both tasks, and from outside of its event loop."""

    @asynccontextmanager
    async def start() -> Any:
        async with serve(bundles=both_bundles, max_pixels=400_000) as client:
            yield client

    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(start()) as client,
    ):

        def send(path: str, **request: Any) -> Response:
            answer: Response = portal.call(lambda: client.post(path, **request))
            return answer

        yield send


def kinds() -> list[bytes]:
    """Files of every kind that clients might send, right or wrong."""
    colour, grey = Image.fromarray(noise()), Image.fromarray(ramp())
    wide = Image.fromarray(ramp().astype(np.uint16) * 257)
    made = [
        *(encoded(colour, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")),
        *(encoded(grey, kind) for kind in ("JPEG", "PNG", "TIFF", "BMP", "ICO")),
        *(encoded(wide, kind) for kind in ("PNG", "TIFF")),
        *(encoded(colour.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")),
        *(encoded(colour.convert(mode)) for mode in ("P", "1", "RGBA", "LA")),
        *(encoded(colour, kind, save_all=True, append_images=[colour]) for kind in ("GIF", "PNG")),
        encoded(colour, "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(ramp().astype(np.float32)), "TIFF"),
        png(30_000, 30_000),
        png(64, 64, rows=bytes(100_000)),
        npy(ramp()),
        npy(ramp().astype(np.float64)),
        npy(np.array([None]), allow_pickle=True),
        b"",
    ]
    examples = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*_*.*g"))]
    return made + examples


KINDS = kinds()


def mutated(rng: np.random.Generator) -> bytes:
    """One of them: whole, cut, with bits flipped, bytes overwritten, or spliced with another."""
    data = bytearray(KINDS[rng.integers(len(KINDS))])
    how = rng.integers(6)
    if how == 0 or len(data) < 8:
        return bytes(data)
    if how == 1:
        return bytes(data[: rng.integers(len(data))])
    if how == 2:
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif how == 3:  # in the header, where sizes and offsets are
        data[rng.integers(min(len(data), 64))] = rng.integers(256)
    elif how == 4:
        start = rng.integers(len(data))
        data[start : start + 16] = rng.bytes(16)
    else:
        other = KINDS[rng.integers(len(KINDS))]
        data[rng.integers(len(data)) :] = other[rng.integers(len(other) + 1) :]
    return bytes(data)


def fuzzed(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A request: mostly right in form, with mutated files in right and wrong fields."""
    path = list(PATHS)[rng.integers(len(PATHS))]
    fields = list(PATHS[path])
    if rng.random() < 0.1:
        fields[rng.integers(len(fields))] = ["rgb", "depth", "nir", "file", ""][rng.integers(5)]
    good = {"rgb": encoded(noise()), "aux": encoded(ramp())}
    files = []
    for field in fields:
        whole = good["rgb" if "rgb" in field else "aux"]
        data = whole if rng.random() < 0.4 else mutated(rng)
        name = ["a.png", "a.jpg", "a.npy", "a.exe", "", "../a\0.tif"][rng.integers(6)]
        files.append((field, (name, data)))
    query = ["", "?resize=true", "?output=json", "?depth_convention=metric", "?top_k=1"]
    return path + query[rng.integers(len(query))], {"files": files}


def check_fuzz(post: Post, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    statuses: dict[int, int] = {}
    for number in range(count):
        path, request = fuzzed(rng)
        answer = post(path, **request)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (number, path, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
    assert statuses.keys() >= {200, 422}, statuses


def test_no_mutated_file_is_a_5xx(post: Post) -> None:
    check_fuzz(post, 300, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_none_of_20_000_mutated_files_is_a_5xx(post: Post) -> None:
    check_fuzz(post, 20_000, seed=1)


FORM = b'--x\r\nContent-Disposition: form-data; name="rgb"; filename="a"\r\n\r\n'
TYPES = [
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/json",
    "application/x-www-form-urlencoded",
    "",
]


# The multipart parser leaves its spooled files to the garbage collector where a body is malformed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([*PATHS, "/v2/models/tiny/infer"]),
    kind=st.sampled_from(TYPES),
    start=st.sampled_from([b"", FORM, b'{"inputs": [', b'{"inputs": []}']),
    body=st.binary(max_size=300),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "X-Request-Id",
                "X-Request-Timeout-Ms",
                "Inference-Header-Content-Length",
                "Authorization",
                "Expect",
            ]
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    ),
)
def test_no_body_and_no_header_is_a_5xx(
    post: Post, path: str, kind: str, start: bytes, body: bytes, headers: dict[str, str]
) -> None:
    answer = post(path, content=start + body, headers={"content-type": kind, **headers})

    assert 400 <= answer.status_code < 500 or answer.status_code == 504


async def check_schema(bundles: Path, folder: Path, *options: str) -> None:
    """Send what the description allows and what it forbids; compare answers with it."""
    async with serving(bundles, "sound") as (_, client):
        run = await asyncio.to_thread(
            subprocess.run,
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                f"{client.base_url}/openapi.json",
                # No schema can say that bytes must be a picture.
                "--exclude-checks=positive_data_acceptance",
                "--no-color",
                *options,
            ],
            cwd=folder,  # it leaves a cache
            capture_output=True,
            text=True,
            check=False,
        )

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.anyio
async def test_the_api_is_what_it_says_that_it_is(both_bundles: Path, tmp_path: Path) -> None:
    await check_schema(both_bundles, tmp_path, "--max-examples=3", "--phases=fuzzing", "--seed=1")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.anyio
async def test_the_api_is_what_it_says_in_every_corner(both_bundles: Path, tmp_path: Path) -> None:
    await check_schema(
        both_bundles, tmp_path, "--max-examples=300", "--phases=coverage,fuzzing,stateful"
    )
