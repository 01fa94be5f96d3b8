"""Who is let in, by counting alone, on a clock that is told the time."""

from __future__ import annotations

import pytest

from app.admission import Admission, AdmissionLimits, Rejected, Ticket
from app.errors import Overloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class House:
    def __init__(self, max_pairs: int = 8, busy_pairs: int = 2, max_bytes: int = 1000) -> None:
        self.clock = Clock()
        self.refused: list[Rejected] = []
        self.admission = Admission(
            AdmissionLimits(max_pairs, busy_pairs, max_bytes), self.refused.append, self.clock
        )

    def enter(self, size_bytes: int = 0, timeout_s: float = 1e6) -> Ticket:
        return self.admission.enter(size_bytes, timeout_s)

    def drain(self, pairs: int, seconds: float) -> None:
        """Let so many pairs in at once, and out one after another in so many seconds."""
        tickets = [self.enter() for _ in range(pairs)]
        for ticket in tickets:
            self.clock.now += seconds / pairs
            ticket.leave(answered=True)


@pytest.mark.parametrize("sizes", [[1] * 8, [4, 4], [7, 1], [1, 7]])
def test_the_same_number_of_pairs_has_room_however_they_are_sent(sizes: list[int]) -> None:
    house = House(max_pairs=8)

    for size in sizes:
        house.enter().hold(pairs=size)

    assert house.admission.pairs == 8
    with pytest.raises(Overloaded):
        house.enter()
    assert house.refused == ["pairs"]


def test_a_request_that_turns_out_too_many_holds_what_it_held() -> None:
    house = House(max_pairs=8)
    house.enter().hold(pairs=6)
    large = house.enter()

    with pytest.raises(Overloaded):
        large.hold(pairs=3)
    large.hold(pairs=2)

    assert house.admission.pairs == 8


def test_a_lone_request_is_never_refused() -> None:
    house = House(max_pairs=8, max_bytes=10)

    house.enter(size_bytes=5000).hold(pairs=64, more_bytes=5000)

    assert house.admission.pairs == 64


def test_bytes_are_bounded_and_given_back() -> None:
    house = House(max_bytes=1000)
    first, second = house.enter(400), house.enter(400)

    with pytest.raises(Overloaded):
        house.enter(300)
    with pytest.raises(Overloaded):
        second.hold(more_bytes=201)
    first.leave(answered=True)
    first.leave(answered=True)
    house.enter(600)

    assert house.refused == ["bytes", "bytes"]
    assert house.admission.size_bytes == 1000


def test_the_time_to_come_again_follows_the_drain_rate() -> None:
    house = House(max_pairs=8, busy_pairs=1)
    house.drain(pairs=4, seconds=12)  # a pair in 3 s
    tickets = [house.enter() for _ in range(8)]

    with pytest.raises(Overloaded) as one:
        house.enter()
    tickets[0].leave(answered=False)
    with pytest.raises(Overloaded) as many:
        house.enter().hold(pairs=5)

    assert one.value.retry_after_s == 3
    assert many.value.retry_after_s == 12


def test_idle_time_and_lone_requests_do_not_slow_the_rate() -> None:
    house = House(busy_pairs=2)
    house.drain(pairs=8, seconds=8)
    rate = house.admission.rate
    house.clock.now += 1000
    slow = house.enter()
    house.clock.now += 1000
    slow.leave(answered=True)
    house.drain(pairs=8, seconds=8)

    assert house.admission.rate == pytest.approx(rate, rel=0.01)
    # The last of each eight leaves alone, and is not measured.
    assert rate == pytest.approx(1.0)


def test_who_leaves_unanswered_is_no_progress() -> None:
    house = House(busy_pairs=1)
    ticket = house.enter()
    house.clock.now += 1
    ticket.leave(answered=False)

    assert house.admission.rate == 0
    assert house.admission.retry_after_s(10) == 1


def test_what_would_come_too_late_is_refused_at_the_door() -> None:
    house = House(max_pairs=100, busy_pairs=1)
    house.drain(pairs=10, seconds=10)
    for _ in range(8):
        house.enter(timeout_s=10)

    with pytest.raises(Overloaded, match="deadline"):
        house.enter(timeout_s=10)
    house.enter(timeout_s=20)

    assert house.refused == ["wait"]
