"""One call over HTTP, tries and waits included, without sending or sleeping itself.

`exchange` is a generator: it yields what is to be done, a request to send or a time to sleep, and
is sent the response, or thrown the error. The client that waits and the one that awaits both drive
it, so that nothing is written twice.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

import httpx

from mutualformer_client.errors import (
    DeadlineExceeded,
    UnexpectedAnswer,
    Unreachable,
    from_response,
)

T = TypeVar("T")
Part = tuple[str, tuple[str, bytes, str]]
"""One file of a form: field, and name, content, media type."""

_COME_AGAIN = {429, 503}
_CONNECTION_TRIES = 3
"""Tries in a row that may find no connection, or lose it."""
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
"""Between tries, where the service does not say how long; doubling from the first."""
_JITTER = 0.25
"""Most that is added to a wait, as a share of it, so that clients do not come back together."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """What to ask, and how to read the answer; asking again changes nothing."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: dict[str, Any] = field(default_factory=dict)
    files: Sequence[Part] = ()
    first: int = 0
    """Place of its first pair among all that the caller gave, counted from 0."""

    def request(self, remaining_s: float) -> Send:
        """The request, given the time that is left for it."""
        headers = {}
        if self.method == "POST":
            headers["X-Request-Timeout-Ms"] = str(max(1, math.floor(1000 * remaining_s)))
        return Send(self.method, self.path, self.params, list(self.files), headers, remaining_s)


@dataclass(frozen=True)
class Send:
    """Send this, and come back with the response."""

    method: str
    path: str
    params: dict[str, Any]
    files: list[Part]
    headers: dict[str, str]
    timeout_s: float

    def arguments(self) -> dict[str, Any]:
        """As `request` of an httpx client takes them."""
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "files": self.files or None,
            "headers": self.headers,
            "timeout": self.timeout_s,
        }


@dataclass(frozen=True)
class Sleep:
    """Come back after this time."""

    seconds: float


Exchange = Generator[Send | Sleep, httpx.Response | None, T]


def http_options(url: str, api_key: str | None) -> dict[str, Any]:
    """What both clients of httpx are made with.

    Raises:
        ValueError: no such address can be asked.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no address of a service, e.g. http://127.0.0.1:8000")
    headers = {"User-Agent": "mutualformer-client"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    return {"base_url": url, "headers": headers}


def exchange(
    call: Call[T],
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Exchange[T]:
    """Ask until there is an answer or the time is over.

    Overload and unreadiness are waited out as `Retry-After` says, if that ends in time.

    Args:
        call: what to ask.
        timeout_s: for everything, waits included.
        clock: in seconds.
        chance: in [0, 1).

    Returns:
        The answer.

    Raises:
        MutualFormerError: see `mutualformer_client.errors`.
    """
    deadline = clock() + timeout_s
    tries = broken = 0
    while True:
        remaining_s = deadline - clock()
        if remaining_s <= 0:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s")
        tries += 1
        try:
            response = yield call.request(remaining_s)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from error
        except httpx.RequestError as error:
            broken += 1
            trouble: Exception = Unreachable(f"{str(error) or type(error).__name__}")
            trouble.__cause__ = error
            if broken >= _CONNECTION_TRIES:
                raise trouble from error
            wait_s = _pause(tries)
        else:
            assert response is not None  # noqa: S101 - what drives this sends one, or throws
            if response.is_success:
                return _parse(call, response)
            broken = 0
            asked_s = retry_after_s(response)
            trouble = from_response(response, asked_s, call.first)
            if response.status_code not in _COME_AGAIN:
                raise trouble
            wait_s = _pause(tries) if asked_s is None else asked_s
        wait_s *= 1 + _JITTER * chance()
        if clock() + wait_s >= deadline:
            raise trouble
        yield Sleep(wait_s)


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`, which may also be a date; none if it is neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _pause(tries: int) -> float:
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (tries - 1))


def _parse(call: Call[T], response: httpx.Response) -> T:
    try:
        return call.parse(response)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnexpectedAnswer(
            f"{response.request.url} does not answer as this service does: {error!r}"
        ) from error
