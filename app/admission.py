"""How much work is in the house, how fast it leaves, whether more may come in; knows no HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from app.errors import Overloaded

Rejected = Literal["pairs", "bytes", "wait"]
"""What there is too much of: pairs, bytes, or waiting before the deadline."""

_MEMORY_PAIRS = 64.0
"""Pairs over which the drain rate is measured."""
_LATEST = 0.8
"""Share of a request's time that it may be expected to wait."""
_LONGEST_RETRY_S = 60


@dataclass(frozen=True)
class AdmissionLimits:
    """How much may be in the house."""

    max_pairs: int
    """Pairs, from arrival to answer."""
    busy_pairs: int
    """From so many pairs on the drain rate is measured: fewer may lack work, or still arrive."""
    max_bytes: int
    """Bodies of requests and prepared arrays."""


@dataclass(eq=False)
class Ticket:
    """One request's place; see `Admission.enter`."""

    _admission: Admission
    timeout_s: float
    pairs: int = 1
    size_bytes: int = 0
    left: bool = field(default=False, init=False)

    def hold(self, *, pairs: int | None = None, more_bytes: int = 0) -> None:
        """Hold more than was known on arrival.

        Args:
            pairs: how many it has, now that they are counted.
            more_bytes: beside those that it holds already.

        Raises:
            Overloaded: there is no room for so much.
        """
        more_pairs = 0 if pairs is None else pairs - self.pairs
        self._admission._check(more_pairs, more_bytes, self.timeout_s, self)
        self.pairs += more_pairs
        self.size_bytes += more_bytes
        self._admission._add(more_pairs, more_bytes)

    def leave(self, *, answered: bool) -> None:
        """Give the place back; only answers count as drained."""
        if not self.left:
            self.left = True
            self._admission._leave(self, answered=answered)


class Admission:
    """Counts pairs and bytes from arrival to answer, by one rule for one pair and for many.

    A request enters as one pair and says how many it has once they are counted. It is refused if
    all would exceed a limit, or if, at the rate at which pairs have been leaving, it would spend
    most of its time waiting; but never if it is the only one.

    Args:
        limits: see `AdmissionLimits`.
        on_rejected: told of each refusal.
        clock: in seconds.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        on_rejected: Callable[[Rejected], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.pairs = 0
        self.size_bytes = 0
        self.requests = 0
        self._on_rejected = on_rejected
        self._clock = clock
        self._since = 0.0
        self._busy_s = 0.0
        self._drained = 0.0

    @property
    def rate(self) -> float:
        """Pairs answered in a second while there was enough to do, lately; 0 if never yet."""
        return self._drained / self._busy_s if self._busy_s > 0 else 0.0

    def enter(self, size_bytes: int, timeout_s: float) -> Ticket:
        """Take a place for a request that has just arrived.

        Args:
            size_bytes: of its body, as far as announced.
            timeout_s: until its deadline.

        Raises:
            Overloaded: with the time after which there should be room.
        """
        self._check(1, size_bytes, timeout_s, None)
        self.requests += 1
        self._add(1, size_bytes)
        return Ticket(self, timeout_s, 1, size_bytes)

    def retry_after_s(self, excess_pairs: float) -> int:
        """Whole seconds in which so many pairs should leave; 1 to 60."""
        if self.rate == 0:
            return 1
        return min(max(1, math.ceil(excess_pairs / self.rate)), _LONGEST_RETRY_S)

    def _check(self, pairs: int, size_bytes: int, timeout_s: float, mine: Ticket | None) -> None:
        if self.requests == (0 if mine is None else 1):
            return
        total_pairs, total_bytes = self.pairs + pairs, self.size_bytes + size_bytes
        most_pairs = self.limits.max_pairs
        if total_pairs > most_pairs:
            self._refuse("pairs", f"more than {most_pairs} pairs would wait", pairs)
        if total_bytes > self.limits.max_bytes:
            share = size_bytes / max(self.size_bytes, 1) * self.pairs
            self._refuse("bytes", f"more than {self.limits.max_bytes} bytes would wait", share)
        patience_s = _LATEST * timeout_s
        if pairs and self.rate and (wait_s := total_pairs / self.rate) > patience_s:
            self._refuse(
                "wait",
                f"the answer would take about {wait_s:.1f} s, too close to its deadline",
                total_pairs - patience_s * self.rate,
            )

    def _refuse(self, reason: Rejected, detail: str, excess_pairs: float) -> None:
        self._on_rejected(reason)
        raise Overloaded(detail, retry_after_s=self.retry_after_s(excess_pairs))

    def _add(self, pairs: int, size_bytes: int) -> None:
        self._tick()
        self.pairs += pairs
        self.size_bytes += size_bytes

    def _leave(self, ticket: Ticket, *, answered: bool) -> None:
        self._tick()
        if answered and self.pairs >= self.limits.busy_pairs:
            self._drained += ticket.pairs
            if self._drained > _MEMORY_PAIRS:
                self._busy_s *= _MEMORY_PAIRS / self._drained
                self._drained = _MEMORY_PAIRS
        self.requests -= 1
        self._add(-ticket.pairs, -ticket.size_bytes)

    def _tick(self) -> None:
        """Count the time since the last change if there was enough to do."""
        now = self._clock()
        if self.pairs >= self.limits.busy_pairs:
            self._busy_s += now - self._since
        self._since = now
