"""What can go wrong, as one tree.

MutualFormerError
├── Unreachable            no connection, or it broke
├── DeadlineExceeded       the time of the call is over, here or there
├── UnexpectedAnswer       not from this service, or not of this version
└── ServiceProblem         the service says what is wrong (RFC 9457)
    ├── BadPicture         one picture cannot be used: `field` and `index` say which
    ├── BadRequest         a parameter, an unknown model, another model than expected
    ├── Unauthorized       no API key, or an unknown one
    ├── Overloaded         too much work, for longer than the call may take
    └── NotReady           starting, shutting down or faulty, for longer than the call may take
"""

# ruff: noqa: N818 - each class is named for what happened, as in the service

from __future__ import annotations

import json
from typing import Any

import httpx

_PICTURE_CODES = {
    "bad_picture",
    "unreadable_picture",
    "unsupported_picture",
    "multiple_frames",
    "picture_too_small",
    "picture_too_large",
    "not_depth",
    "not_near_infrared",
    "pair_mismatch",
}


class MutualFormerError(Exception):
    """Whatever a call raises once its arguments are in order."""


class Unreachable(MutualFormerError):
    """No connection, or it broke, several times."""


class DeadlineExceeded(MutualFormerError):
    """No answer within `timeout_s`."""


class UnexpectedAnswer(MutualFormerError):
    """The answer is not one that this service gives; a proxy's, most likely."""


class ServiceProblem(MutualFormerError):
    """The service refused or failed, and says why.

    Args:
        status: of the HTTP answer.
        problem: its body.
        retry_after_s: when to come again, if it says so.
    """

    def __init__(
        self, status: int, problem: dict[str, Any], retry_after_s: float | None = None
    ) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        """Stable name for programs."""
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.field: str | None = problem.get("field")
        """The form field or parameter at fault."""
        self.index: int | None = problem.get("index")
        """Which picture of that field, counted from 0, if it takes several."""
        self.request_id = str(problem.get("instance", "")).removeprefix("urn:request:")
        """What the service's log calls this request."""
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.detail or self.title} ({self.code})")


class BadPicture(ServiceProblem):
    """A picture that cannot be used."""


class BadRequest(ServiceProblem):
    """The service does not take such a request."""


class Unauthorized(ServiceProblem):
    """No API key, or an unknown one."""


class Overloaded(ServiceProblem):
    """More work than may wait."""


class NotReady(ServiceProblem):
    """Starting, shutting down or faulty."""


def from_response(
    response: httpx.Response, retry_after_s: float | None, first: int
) -> MutualFormerError:
    """The error that an answer which is no success stands for.

    Args:
        response: the answer.
        retry_after_s: what its `Retry-After` says.
        first: place of the request's first pair among all that the caller gave.
    """
    status = response.status_code
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return UnexpectedAnswer(
            f"HTTP {status} from {response.request.url}, which is no answer of this service"
        )
    if "index" in problem:
        problem["index"] += first
    if status == 504:
        return DeadlineExceeded(str(problem.get("detail", "")))
    if problem["code"] in _PICTURE_CODES:
        kind: type[ServiceProblem] = BadPicture
    else:
        kinds = {401: Unauthorized, 403: Unauthorized, 429: Overloaded, 503: NotReady}
        kind = kinds.get(status, BadRequest if status < 500 else ServiceProblem)
    return kind(status, problem, retry_after_s)
