"""What every multipart form is checked for, and what it holds of the house."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request, Response

from app.admission import Ticket
from app.errors import BadRequest
from app.predictor import Answer, Predictor
from app.service import Service

_MAX_WARNINGS = 8
"""In the header; JSON answers have all of them."""


async def check_fields(request: Request, known: set[str], *, several: bool = False) -> None:
    """Refuse what would be ignored; `BadRequest` names the field.

    Each of the `known` fields may hold one file, or `several`.
    """
    form = await request.form()
    unknown = sorted(set(form) - known)
    if unknown:
        raise BadRequest(
            f"form field {unknown[0]!r} is unknown; options go into the query", field=unknown[0]
        )
    counts = {} if several else {name: len(form.getlist(name)) for name in sorted(known)}
    for name, count in counts.items():
        if count > 1:
            raise BadRequest(f"{count} files in form field {name!r}, which takes one", field=name)


def hold_room(request: Request, predictor: Predictor, pairs: int) -> None:
    """Take the room that so many pairs need, once they are counted; `Overloaded` if there is none.

    Also notes that the request has been received.
    """
    ticket: Ticket = request.state.ticket
    ticket.hold(pairs=pairs, more_bytes=pairs * predictor.pair_bytes)
    times = request.state.times
    times.record("receive", times.elapsed())


def respond(
    request: Request, answer: Answer, pairs: int, own_headers: Mapping[str, str] | None = None
) -> Response:
    """The answer with the headers that all answers have; counts pairs that had a stand-in."""
    headers = {"X-Model-Id": answer.model_id, **(own_headers or {})}
    if answer.warnings:
        more = len(answer.warnings) - _MAX_WARNINGS
        shown = answer.warnings[:_MAX_WARNINGS] + ([f"and {more} more"] if more > 0 else [])
        headers["X-Warnings"] = "; ".join(shown)
    if answer.substituted is not None:
        headers["X-Substituted"] = answer.substituted
        service: Service = request.app.state.service
        service.metrics.substituted(answer.model_id, answer.substituted, pairs)
    return Response(answer.body, headers=headers, media_type=answer.media_type)
