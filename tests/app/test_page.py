"""The demo page as files: headers, what it may load, and that it can be turned off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from httpx import AsyncClient

from app.routes.page import FOLDER, read_assets
from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
TEXTS = [name for name in FILES if name.endswith((".html", ".css", ".js", ".svg"))]


def directives(policy: str) -> dict[str, str]:
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


async def test_the_root_is_the_page_under_a_strict_policy(client: AsyncClient) -> None:
    answer = await client.get("/")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>MutualFormer Serve</title>" in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_served_as_what_it_is(client: AsyncClient, name: str) -> None:
    answer = await client.get(f"/page/{name}")

    kinds = {"js": "text/javascript", "css": "text/css", "html": "text/html"}
    kinds |= {"svg": "image/svg+xml", "jpg": "image/jpeg", "png": "image/png"}
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == kinds[name.rsplit(".", 1)[1]]


async def test_a_file_is_kept_but_asked_for_again(client: AsyncClient) -> None:
    first = await client.get("/page/main.js")
    tag = first.headers["etag"]
    again = await client.get("/page/main.js", headers={"if-none-match": f'"other", W/{tag}'})
    other = await client.get("/page/style.css", headers={"if-none-match": tag})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert other.status_code == 200


async def test_a_page_that_was_kept_keeps_its_policy(client: AsyncClient) -> None:
    first = await client.get("/")
    again = await client.get("/", headers={"if-none-match": first.headers["etag"]})

    assert again.status_code == 304
    name = "content-security-policy"
    assert again.headers[name] == first.headers[name]


@pytest.mark.parametrize("path", ["nothing.js", "../main.py", "..%2Fmain.py", "", "examples"])
async def test_anything_else_is_a_problem(client: AsyncClient, path: str) -> None:
    answer = await client.get(f"/page/{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text()
    namespaces = ("http://www.w3.org/2000/svg",)
    links = {
        url
        for url in re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`)]*", text)
        # A comment may say where a thing is described.
        if url not in namespaces and not re.search(rf"(?://|\*).*{re.escape(url)}", text)
    }

    assert links == set()


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_needs_what_the_policy_refuses(name: str) -> None:
    text = (FOLDER / name).read_text()

    for refused in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function"):
        assert refused not in text
    if name.endswith(".html"):
        assert not re.search(r"\s(style|on\w+)=", text)
        assert not re.search(r"<script(?![^>]*\ssrc=)", text)
        assert "<style" not in text


def test_every_file_that_is_named_is_there() -> None:
    named = set()
    for name in TEXTS:
        text = (FOLDER / name).read_text()
        named |= set(re.findall(r'from "\./([\w.-]+)"', text))
        named |= set(re.findall(r'(?:href|src)="page/([\w./-]+)"', text))

    assert named
    assert named <= set(FILES)
    assert {file for file in FILES if file.endswith(".js")} <= named


def test_the_page_ships_its_own_copies_of_the_examples() -> None:
    copies = sorted((FOLDER / "examples").iterdir())

    assert len(copies) == 14
    for copy in copies:
        assert copy.read_bytes() == (ROOT / "examples" / copy.name).read_bytes()


def test_every_kind_of_file_is_read() -> None:
    assert sorted(read_assets()) == FILES


async def test_the_page_can_be_turned_off(serve: Serve) -> None:
    async with serve(page=False) as client:
        root, asset = await client.get("/"), await client.get("/page/main.js")
        head = await client.head("/docs")
    async with serve(page=False, docs=False) as client:
        bare = await client.get("/")

    assert root.headers["location"] == "/docs"
    assert asset.status_code == 404
    assert head.status_code == 200
    assert bare.json()["name"] == "MutualFormer Serve"


async def test_the_page_stays_out_of_the_description(client: AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert "/" not in paths
    assert not [path for path in paths if "page" in path or path.startswith("/web")]
