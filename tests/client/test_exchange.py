"""Trying again, waiting and giving up, against services that functions pretend to be."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.main import VERSION
from mutualformer_client import (
    Client,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    ServiceProblem,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
    calls,
)
from mutualformer_client.exchange import Call, Send, Sleep, exchange, retry_after_s
from mutualformer_client.pictures import encode
from tests.app.tiny import noise, ramp

CLIENT = Path(__file__).parents[2] / "client"
MODELS: dict[str, Any] = {"models": []}


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {
        "type": f"urn:mutualformer:{code}",
        "title": "Title",
        "status": status,
        "detail": "so it is",
        "code": code,
        "instance": "urn:request:abc",
    }
    return httpx.Response(
        status,
        content=json.dumps(body),
        headers={"Content-Type": "application/problem+json", **headers},
        request=httpx.Request("POST", "http://test/v1/saliency"),
    )


class Played:
    """Plays an exchange against scripted replies, each a second long, on a clock of its own."""

    def __init__(self, replies: list[httpx.Response | Exception], *, chance: float = 0.0) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.sent: list[Send] = []
        self._replies = iter(replies)
        self._chance = chance

    def ask(self, call: Call[Any], timeout_s: float) -> Any:
        steps = exchange(call, timeout_s, clock=lambda: self.now, chance=lambda: self._chance)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.slept.append(step.seconds)
                    self.now += step.seconds
                    step = next(steps)
                    continue
                self.sent.append(step)
                self.now += 1.0
                reply = next(self._replies)
                step = steps.throw(reply) if isinstance(reply, Exception) else steps.send(reply)
        except StopIteration as end:
            return end.value


def ask_models() -> Call[Any]:
    return calls.models()


def ask_saliency() -> Call[Any]:
    return calls.saliency(noise(), ramp(), {})


@pytest.mark.parametrize(("status", "code"), [(429, "overloaded"), (503, "not_ready")])
def test_overload_is_waited_out_as_long_as_the_service_says(status: int, code: str) -> None:
    busy = problem(status, code, **{"Retry-After": "7"})
    played = Played([busy, busy, httpx.Response(200, json=MODELS)])

    assert played.ask(ask_models(), timeout_s=60) == []

    assert played.slept == [7, 7]


def test_jitter_comes_on_top_of_what_the_service_says() -> None:
    busy = problem(429, "overloaded", **{"Retry-After": "8"})
    played = Played([busy, httpx.Response(200, json=MODELS)], chance=0.5)

    played.ask(ask_models(), timeout_s=60)

    assert played.slept == [9]


def test_no_wait_is_begun_that_would_end_after_the_deadline() -> None:
    played = Played([problem(429, "overloaded", **{"Retry-After": "30"})])

    with pytest.raises(Overloaded) as caught:
        played.ask(ask_models(), timeout_s=30)

    assert caught.value.retry_after_s == 30
    assert played.slept == []


def test_waits_that_nobody_suggests_double_up_to_a_limit() -> None:
    played = Played([problem(503, "not_ready")] * 20)

    with pytest.raises(NotReady):
        played.ask(ask_models(), timeout_s=30)

    assert played.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]  # and a second for each try


def test_each_try_tells_the_service_what_time_is_left() -> None:
    busy = problem(429, "overloaded", **{"Retry-After": "4"})
    played = Played([busy, problem(504, "deadline_exceeded")])

    with pytest.raises(DeadlineExceeded):
        played.ask(ask_saliency(), timeout_s=20)

    assert [send.headers["X-Request-Timeout-Ms"] for send in played.sent] == ["20000", "15000"]
    assert [send.timeout_s for send in played.sent] == [20, 15]


def test_a_broken_connection_is_tried_three_times() -> None:
    played = Played([httpx.ConnectError("refused")] * 3)

    with pytest.raises(Unreachable, match="refused"):
        played.ask(ask_models(), timeout_s=60)

    assert len(played.sent) == 3


def test_a_time_out_is_the_end() -> None:
    played = Played([httpx.ReadTimeout("slow")])

    with pytest.raises(DeadlineExceeded):
        played.ask(ask_models(), timeout_s=60)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "unauthorized", Unauthorized),
        (500, "inference_failed", ServiceProblem),
        (422, "not_depth", ServiceProblem),
    ],
)
def test_what_would_not_change_is_not_tried_again(
    status: int, code: str, error: type[Exception]
) -> None:
    played = Played([problem(status, code)])

    with pytest.raises(error, match="so it is"):
        played.ask(ask_models(), timeout_s=60)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(502, text="<html>Bad gateway</html>"),
        httpx.Response(200, text="<html>Welcome</html>"),
        httpx.Response(200, json={"models": [{}]}),
    ],
)
def test_a_strange_answer_is_unexpected(response: httpx.Response) -> None:
    response.request = httpx.Request("GET", "http://test/v1/models")

    with pytest.raises(UnexpectedAnswer, match="http://test/v1/models"):
        Played([response]).ask(ask_models(), timeout_s=60)


def test_retry_after_may_be_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)

    assert retry_after_s(problem(429, "x", **{"Retry-After": when})) == pytest.approx(30, abs=2)
    assert retry_after_s(problem(429, "x", **{"Retry-After": "soon"})) is None
    assert retry_after_s(problem(429, "x")) is None


def test_both_clients_try_again_and_show_their_key(answered_by: Callable[..., Any]) -> None:
    replies = itertools.chain(
        [problem(429, "overloaded", **{"Retry-After": "0"})], itertools.repeat(None)
    )
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return next(replies) or httpx.Response(200, json=MODELS)

    with answered_by(answer, api_key="secret") as client:
        assert client.models() == []

    assert seen == ["Bearer secret"] * 2


def test_both_clients_bound_what_they_ask_at_a_time(
    answered_by: Callable[..., Any], kind: str
) -> None:
    lock = threading.Lock()
    taken = answered = most_ahead = 0

    def pairs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        nonlocal taken, most_ahead
        for _ in range(12):
            with lock:
                taken += 1
                most_ahead = max(most_ahead, taken - answered)
            yield noise(), ramp()

    def answer() -> httpx.Response:
        nonlocal answered
        with lock:
            answered += 1
        headers = {"X-Model-Id": "a@1", "X-Depth-Convention": "metric", "Content-Type": "image/png"}
        return httpx.Response(200, headers=headers, content=encode(ramp()))

    def answer_late(_: httpx.Request) -> httpx.Response:
        time.sleep(0.05)
        return answer()

    async def answer_late_awaited(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.05)
        return answer()

    handler = answer_late if kind == "sync" else answer_late_awaited
    with answered_by(handler, concurrency=3) as client:
        answers = client.saliency_many(pairs())

    assert len(answers) == 12
    assert 2 <= most_ahead <= 4  # three asked, and the one whose answer is being taken


def test_answers_of_two_models_are_not_mixed(answered_by: Callable[..., Any]) -> None:
    numbers = itertools.count()

    def answer(_: httpx.Request) -> httpx.Response:
        report = {"model_id": f"m@{next(numbers)}", "preprocess_id": "reid-1", "warnings": []}
        return httpx.Response(200, json={**report, "embeddings": ["AACAPw=="]})

    with (
        answered_by(answer) as client,
        pytest.raises(UnexpectedAnswer, match="m@0 and m@1 answered"),
    ):
        client.embeddings([(b"rgb", b"nir")] * 65)


def test_a_large_gallery_is_split_by_bytes_too() -> None:
    heavy = bytes(5 * 2**20)

    requests = [ask().files for ask in calls.embeddings([(heavy, heavy)] * 3, {})]

    assert [len(files) for files in requests] == [2, 2, 2]


def test_an_address_without_a_scheme_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no address"):
        Client("localhost:8000")


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros((4, 4), complex), np.zeros(4), np.zeros((4, 4), bool)]
)
def test_an_array_that_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        encode(picture)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_images_of_every_usual_mode_are_encoded(mode: str) -> None:
    assert encode(Image.new(mode, (4, 4)))


def test_the_client_needs_nothing_of_the_service() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import mutualformer_client, sys; print(*sys.modules)",
        ],
        cwd="/",
        env={"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    needed = {name.partition(">")[0] for name in project["dependencies"]}
    assert needed == {"httpx", "numpy", "pillow"}
    assert not {"app", "model", "pydantic", "fastapi", "starlette", "torch"} & set(loaded)
    assert project["version"] == VERSION
