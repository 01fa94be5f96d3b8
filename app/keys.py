"""Who may ask, and how often; knows no HTTP."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


class KeyFileError(Exception):
    """The file of API keys cannot be used; the message says which line and why."""


def new_key(name: str) -> tuple[str, str]:
    """A key that nobody can guess, and the line that makes it known."""
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{_digest(key)}"


class ApiKeys:
    """The clients that are known, by the digests of their keys."""

    def __init__(self, digests: dict[str, str]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a file of `name:sha256` lines; blank lines and `#` comments are skipped.

        Raises:
            KeyFileError: it cannot be read, holds no key, another line, or a name twice.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: {error}") from error
        digests: dict[str, str] = {}
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise KeyFileError(f"{path}, line {number}: expected name:sha256, in lower case")
            name, digest = match.groups()
            if name in digests:
                raise KeyFileError(f"{path}, line {number}: {name!r} is there twice")
            digests[name] = digest
        if not digests:
            raise KeyFileError(f"{path}: no key in this file")
        return cls(digests)

    def owner(self, key: str) -> str | None:
        """Whose key it is; the time taken does not tell how nearly a wrong one fits."""
        sent, found = _digest(key), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(sent, digest):
                found = name
        return found


class RateLimit:
    """A bucket of tokens for each client: one token a request, refilled at a steady rate.

    Args:
        per_s: tokens that each bucket gains in a second.
        burst: tokens that a bucket holds.
        clock: in seconds.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> float:
        """Take a token; 0 if there was one, else the seconds until there is."""
        now = self._clock()
        tokens, since = self._buckets.get(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        taken = tokens >= 1
        self._buckets[client] = (tokens - taken, now)
        return 0.0 if taken else (1 - tokens) / self._per_s


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
