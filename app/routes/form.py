"""What every multipart form is checked for."""

from __future__ import annotations

from fastapi import Request

from app.errors import BadRequest


async def check_fields(request: Request, known: set[str]) -> None:
    """Refuse a field that would be ignored; `BadRequest` names it."""
    unknown = sorted(set(await request.form()) - known)
    if unknown:
        raise BadRequest(
            f"form field {unknown[0]!r} is unknown; options go into the query", field=unknown[0]
        )
