"""Every error as an RFC 9457 problem; the only place that turns errors into HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from app.errors import Overloaded, RequestTooLarge, ServiceError, StorageFailed, Unauthorized
from app.schemas import Problem

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "2"
_FRAMEWORK_CODES = {
    400: ("malformed_request", "Malformed request"),
    404: ("not_found", "Not found"),
    405: ("method_not_allowed", "Method not allowed"),
    413: (RequestTooLarge.code, RequestTooLarge.title),
    429: (Overloaded.code, Overloaded.title),
}


def install(app: FastAPI) -> None:
    """Render every error that a route or the framework raises."""
    for kind in (ServiceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handle)


def render(error: Exception, scope: Scope) -> Response:
    """The problem of one error; anything unforeseen becomes a 500 that tells nothing."""
    request_id = scope["state"]["request_id"]
    headers: dict[str, str] = {}
    field: str | None = None
    index: int | None = None
    if isinstance(error, ServiceError):
        status, code, title = error.status, error.code, error.title
        detail, field, index = error.detail, error.field, error.index
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = _RETRY_AFTER_S
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, RequestValidationError):
        status, code, title = 422, "invalid_request", "Invalid request"
        errors = error.errors()
        detail, field, index = _explain(errors)
        if errors[0]["loc"][0] == "body":
            detail = _unlike_a_form(scope) or detail
    elif isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
        code, title = _FRAMEWORK_CODES.get(status, ("http_error", "HTTP error"))
        if status == HTTPStatus.BAD_REQUEST and (form := _form(scope)):
            detail = f"{detail.removesuffix('.')}; expected {form}"
        headers.update(error.headers or {})
    else:
        status, code, title = 500, "internal_error", "Internal error"
        detail = "an unforeseen error; it was logged under this request's id"
    problem = Problem(
        type=f"urn:mutualformer:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        field=field,
        index=index,
        error=detail if scope["path"].startswith("/v2") else None,
        instance=f"urn:request:{request_id}",
    )
    content = problem.model_dump_json(exclude_none=True)
    return Response(content, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares about its errors; see `describe`."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses
    }


def describe(openapi: dict[str, Any]) -> dict[str, Any]:
    """Correct what FastAPI takes errors to be: each is a `Problem`, in its own media type."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path in openapi["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    response["content"] = content
    for unused in ("HTTPValidationError", "ValidationError"):
        openapi["components"]["schemas"].pop(unused, None)
    return openapi


async def _handle(request: Request, error: Exception) -> Response:
    # FastAPI takes whatever goes wrong while a form is read for the client's fault.
    if isinstance(error, HTTPException) and isinstance(error.__cause__, OSError):
        cause = str(error.__cause__)
        request_id = request.state.request_id
        structlog.get_logger().error("cannot keep an upload", error=cause, request_id=request_id)
        error = StorageFailed("there is no room for an upload of this size; try a smaller one")
    return render(error, request.scope)


def _form(scope: Scope) -> str | None:
    """The form that the route takes, in words; none if it takes none, or there is no route."""
    route = scope.get("route")
    fields = [field.alias for field in route.dependant.body_params] if route else []
    if not fields:
        return None
    *most, last = fields
    return f"multipart/form-data with the files {', '.join(most)} and {last}"


def _unlike_a_form(scope: Scope) -> str | None:
    """What is wrong where fields are missing because the body is no form at all."""
    form = _form(scope)
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if form is None or kind == "multipart/form-data":
        return None
    return f"the body is {kind or 'of no stated type'}; expected {form}"


def _explain(errors: Sequence[Any]) -> tuple[str, str | None, int | None]:
    """One sentence for all errors, and the field of the first with its index in a list."""
    sentences, places = [], []
    for error in errors:
        place, *parts = error["loc"]
        name = ".".join(str(part) for part in parts if isinstance(part, str))
        index = next((part for part in parts if isinstance(part, int)), None)
        kind = "form field" if place == "body" else f"{place} parameter"
        places.append((name or None, index))
        subject = f"{kind} {name!r}" + ("" if index is None else f", number {index},")
        if error["type"] == "missing":
            sentences.append(f"{subject} is missing")
        elif error["type"] == "extra_forbidden":
            sentences.append(f"{subject} is unknown")
        elif place == "body":
            sentences.append(f"{subject} is not a file; give it a file name")
        else:
            sentences.append(f"{subject}: {error['msg']}")
    return "; ".join(sentences), *places[0]
