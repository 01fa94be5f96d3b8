"""Which implementation `auto` takes, from the times in `choices.json`.

`python -m benchmarks.cda choose` measures on the machine where it runs and writes its device's
part of that file.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from model.config import Implementation

TABLE = Path(__file__).with_name("choices.json")
PLAIN_TOKENS = 1024
"""Beyond these, `plain` is never taken, so that memory stays linear whatever was measured."""


class Measurement(NamedTuple):
    """One row of the table: median times, in milliseconds, of one run."""

    device: str
    """`cpu` or `cuda`."""
    dtype: str
    """`float32`, `bfloat16` or `float16`."""
    backward: bool
    """Whether the backward pass is in the time."""
    tokens: int
    d: int
    times_ms: dict[str, float]
    """By implementation."""


def choose(device: str, dtype: str, tokens: int, d: int, *, backward: bool) -> Implementation:
    """The fastest where it was measured nearest to this.

    A device without measurements gets what consists of ordinary operations alone, so that it runs
    what the tests run on a CPU: the plain form, and row blocks beyond `PLAIN_TOKENS`.
    """
    known = [
        row
        for row in measurements()
        if (row.device, row.dtype, row.backward) == (device, dtype, backward)
    ]
    if not known:
        return "plain" if tokens <= PLAIN_TOKENS else "blocked"
    nearest = min(known, key=lambda row: (_octaves(row.tokens, tokens), _octaves(row.d, d)))
    allowed = [name for name in nearest.times_ms if name != "plain" or tokens <= PLAIN_TOKENS]
    fastest: Any = min(allowed, key=lambda name: nearest.times_ms[name])
    return fastest  # type: ignore[no-any-return] # the table's names are implementations


def _octaves(one: int, other: int) -> float:
    return abs(math.log2(one / other))


@functools.cache
def measurements() -> tuple[Measurement, ...]:
    """The table, read once."""
    rows = json.loads(TABLE.read_text())["rows"]
    return tuple(Measurement(**row) for row in rows)
