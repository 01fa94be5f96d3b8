"""What every multipart form is checked for, and what it holds of the house."""

from __future__ import annotations

from fastapi import Request

from app.admission import Ticket
from app.errors import BadRequest
from app.predictor import Predictor


async def check_fields(request: Request, known: set[str]) -> None:
    """Refuse a field that would be ignored; `BadRequest` names it."""
    unknown = sorted(set(await request.form()) - known)
    if unknown:
        raise BadRequest(
            f"form field {unknown[0]!r} is unknown; options go into the query", field=unknown[0]
        )


def hold_room(request: Request, predictor: Predictor, pairs: int) -> None:
    """Take the room that so many pairs need, once they are counted; `Overloaded` if there is none.

    Also notes that the request has been received.
    """
    ticket: Ticket = request.state.ticket
    ticket.hold(pairs=pairs, more_bytes=pairs * predictor.pair_bytes)
    times = request.state.times
    times.record("receive", times.elapsed())
