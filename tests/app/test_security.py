"""Keys, rates, other origins, and versions without known holes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner

from app.__main__ import cli
from app.keys import ApiKeys, KeyFileError, RateLimit
from app.service import Service
from app.settings import Settings
from tests.app.conftest import Serve
from tests.app.tiny import pair

pytestmark = pytest.mark.anyio

URL = "/v1/saliency"
GUARDED = (URL, "/v1/models", "/v1/models/tiny", "/metrics", "/v2/models/tiny", "/nowhere")
OPEN = ("/livez", "/readyz", "/startupz", "/docs", "/openapi.json", "/")


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# who may ask\n\n" + line("alice", "secret-a") + line("bob", "secret-b"))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_only_known_keys_get_answers(serve: Serve, key_file: Path) -> None:
    async with serve(api_keys_file=key_file) as client:
        known = [
            (await client.post(URL, files=pair(), headers=bearer(key))).status_code
            for key in ("secret-a", "secret-b")
        ]
        for headers in (
            {},
            bearer("secret-c"),
            bearer(""),
            bearer(hashlib.sha256(b"secret-a").hexdigest()),
            {"authorization": "Basic secret-a"},
            {"authorization": "secret-a"},
        ):
            refused = await client.post(URL, files=pair(), headers=headers)

            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"

    assert known == [200, 200]


async def test_all_but_probes_and_pages_is_guarded(serve: Serve, key_file: Path) -> None:
    async with serve(api_keys_file=key_file) as client:
        guarded = {path: (await client.get(path)).status_code for path in GUARDED}
        opened = {path: (await client.get(path)).status_code for path in OPEN}

    assert set(guarded.values()) == {401}, guarded
    assert 401 not in opened.values(), opened


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no key"),
        ("alice", "line 1: expected name:sha256"),
        ("# one\nalice:secret\n", "line 2: expected name:sha256"),
        (line("a", "x") + line("a", "y"), "line 2: 'a' is there twice"),
    ],
)
async def test_a_bad_key_file_stops_start_up(
    bundles: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    service = Service(Settings(bundles=bundles, api_keys_file=path))

    await service.start()

    assert isinstance(service.failure, KeyFileError)
    assert complaint in str(service.failure)


def test_a_new_key_opens_with_its_line(tmp_path: Path) -> None:
    output = CliRunner().invoke(cli, ["new-key", "carol"]).output
    key, text = re.findall(r": +(\S+)", output)
    (tmp_path / "keys").write_text(text)

    assert ApiKeys.read(tmp_path / "keys").owner(key) == "carol"


async def test_each_key_has_its_own_rate(serve: Serve, key_file: Path) -> None:
    async with serve(api_keys_file=key_file, rate_limit_per_s=0.01, rate_limit_burst=2) as client:
        alice = [await client.post(URL, files=pair(), headers=bearer("secret-a")) for _ in "123"]
        bob = await client.post(URL, files=pair(), headers=bearer("secret-b"))
        listed = await client.get("/v1/models", headers=bearer("secret-a"))

    assert [answer.status_code for answer in alice] == [200, 200, 429]
    assert alice[-1].json()["code"] == "rate_limited"
    assert 90 <= int(alice[-1].headers["retry-after"]) <= 100
    assert (bob.status_code, listed.status_code) == (200, 200)


def test_a_bucket_refills_at_its_rate_and_no_higher_than_its_burst() -> None:
    now = 0.0
    limit = RateLimit(2.0, 3, clock=lambda: now)
    first = [limit.take("a") for _ in range(4)]
    now = 0.5
    second = [limit.take("a") for _ in range(2)]
    now = 100.0
    third = [limit.take("a") for _ in range(4)]

    assert first == third == [0, 0, 0, 0.5]
    assert second == [0, 0.5]


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("", "https://a.example", None),
        ("https://a.example, https://b.example", "https://b.example", "https://b.example"),
        ("https://a.example", "https://evil.example", None),
        ("*", "https://any.example", "*"),
    ],
)
async def test_other_origins_are_closed_out_unless_listed(
    serve: Serve, key_file: Path, setting: str, origin: str, allowed: str | None
) -> None:
    asks = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    async with serve(cors_origins=setting, api_keys_file=key_file) as client:
        preflight = await client.options(URL, headers=asks)
        refused = await client.post(URL, files=pair(), headers={"origin": origin})
        answer = await client.post(
            URL, files=pair(), headers={"origin": origin, **bearer("secret-a")}
        )

    for response in (preflight, refused, answer):
        assert response.headers.get("access-control-allow-origin") == allowed
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("name", "floor"), [("python-multipart", "0.0.27"), ("starlette", "1.3.1")]
)
def test_parsers_of_hostile_input_have_versions_without_known_holes(name: str, floor: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    wanted = {
        requirement.name: requirement
        for requirement in map(Requirement, project["project"]["optional-dependencies"]["http"])
    }[name]

    assert Version(importlib.metadata.version(name)) >= Version(floor)
    assert not wanted.specifier.contains(str(Version(floor)).rsplit(".", 1)[0] + ".0")
    assert wanted.specifier.contains(importlib.metadata.version(name))


def test_nothing_hands_bytes_of_strangers_to_pickle() -> None:
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "app").rglob("*.py")]

    assert not [text for text in sources if re.search(r"\bpickle\b.*import|import pickle", text)]
    assert not [text for text in sources if "allow_pickle=True" in text]
