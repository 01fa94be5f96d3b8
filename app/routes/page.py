"""`/`: the demo page, files of `app/web/` as they are.

They are read once and answered from memory, so a request names one of them or nothing. Browsers
keep them but ask each time whether they have changed: a page never runs with another version's
modules.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parents[1] / "web"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
# Not asked of the machine, whose registry may call JavaScript anything.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}


@dataclass(frozen=True)
class Asset:
    """One file of the page."""

    body: bytes
    media_type: str
    etag: str


def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every file under `folder` by its relative path."""
    return {
        path.relative_to(folder).as_posix(): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def make_router() -> APIRouter:
    """The page at `/`, what it loads under `/page/`."""
    assets = read_assets()
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, assets["index.html"])

    @router.get("/page/{path:path}")
    async def asset(request: Request, path: str) -> Response:
        if path not in assets:
            raise HTTPException(404, f"the page has no file {path!r}")
        return _answer(request, assets[path])

    return router


def _read(path: Path) -> Asset:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    return Asset(body, _MEDIA_TYPES[path.suffix], f'"{digest[:32]}"')


def _answer(request: Request, asset: Asset) -> Response:
    headers = {
        "ETag": asset.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    known = request.headers.get("if-none-match", "")
    # A proxy that compresses marks the tag as weak.
    if asset.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        # Its headers replace those of the kept answer, the policy too, which follows the type.
        return Response(status_code=304, headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
