from __future__ import annotations

from typing import get_args

import pytest

from model.config import Implementation
from model.kernels import choose as module
from model.kernels.choose import Measurement, choose


def row(tokens: int, d: int, times_ms: dict[str, float], backward: bool = False) -> Measurement:
    return Measurement("cpu", "float32", backward, tokens, d, times_ms)


TABLE = (
    row(100, 16, {"plain": 1.0, "blocked": 2.0, "sdpa": 3.0}),
    row(100, 64, {"plain": 2.0, "blocked": 3.0, "sdpa": 1.0}),
    row(1600, 16, {"plain": 9.0, "blocked": 2.0, "sdpa": 3.0}),
    row(100, 16, {"plain": 3.0, "blocked": 2.0}, backward=True),
    row(1024, 16, {"plain": 1.0, "blocked": 3.0, "sdpa": 2.0}, backward=True),
)


@pytest.mark.parametrize(
    ("tokens", "d", "backward", "expected"),
    [
        (90, 16, False, "plain"),
        (90, 60, False, "sdpa"),
        (90, 16, True, "blocked"),
        (1000, 128, False, "blocked"),
        (50_000, 16, False, "blocked"),
        (1025, 16, True, "sdpa"),
    ],
)
def test_the_fastest_of_the_nearest_measurement_is_taken(
    monkeypatch: pytest.MonkeyPatch, tokens: int, d: int, backward: bool, expected: str
) -> None:
    monkeypatch.setattr(module, "measurements", lambda: TABLE)

    assert choose("cpu", "float32", tokens, d, backward=backward) == expected


def test_an_unmeasured_device_gets_ordinary_operations() -> None:
    assert choose("xpu", "float32", 100, 64, backward=False) == "plain"
    assert choose("xpu", "float32", 6400, 64, backward=False) == "blocked"


def test_the_table_names_known_implementations_and_its_origin() -> None:
    names = {name for row in module.measurements() for name in row.times_ms}

    assert names <= set(get_args(Implementation)) - {"auto"}
    assert {row.device for row in module.measurements()} >= {"cpu"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("backward", [False, True])
def test_many_tokens_never_meet_the_plain_form_on_a_cpu(dtype: str, backward: bool) -> None:
    for tokens in (1025, 6400, 16384):
        for d in (8, 16, 32, 64, 128):
            assert choose("cpu", dtype, tokens, d, backward=backward) != "plain"
