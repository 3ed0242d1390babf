"""`RateLimit`: no window of a minute holds more than agreed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.teachers.limits import MINUTE, RateLimit


def starts(limit, clock, tokens, pauses=None):
    times = []
    for n, pause in zip(tokens, pauses or [0.0] * len(tokens), strict=True):
        clock.now += pause
        times.append(clock.now + limit.reserve(n))
    return times


def test_requests_are_spaced_evenly(clock):
    limit = RateLimit(30, None, clock)
    assert starts(limit, clock, [1, 1, 1, 1]) == [1000, 1002, 1004, 1006]
    clock.now = 2000  # time that was not used is not saved up
    assert starts(limit, clock, [1, 1]) == [2000, 2002]


def test_tokens_wait_until_earlier_ones_are_a_minute_old(clock):
    limit = RateLimit(None, 100, clock)
    # 60 + 30 fit; 30 more wait for the 60, and 60 more for the first 30: both at the end of the minute.
    assert starts(limit, clock, [60, 30, 30, 60]) == [1000, 1000, 1060, 1060]
    # Booked in the last minute are 30 + 60.
    assert starts(limit, clock, [10, 40]) == [1060, 1120]


def test_without_limits_nothing_waits(clock):
    assert starts(RateLimit(None, None, clock), clock, [10**9] * 5) == [1000] * 5


def test_hold_delays_what_is_not_booked_yet(clock):
    limit = RateLimit(60, None, clock)
    assert limit.reserve(1) == 0
    limit.hold(20)
    limit.hold(5)  # a shorter pause does not end a longer one
    assert limit.reserve(1) == pytest.approx(20)
    assert limit.reserve(1) == pytest.approx(21)


@given(
    booked=st.lists(st.tuples(st.integers(1, 50), st.floats(0, 90)), min_size=1, max_size=60),
    per_minute=st.integers(1, 200),
    tokens_per_minute=st.integers(50, 300),
)
def test_no_minute_holds_more_than_agreed(booked, per_minute, tokens_per_minute):
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    limit = RateLimit(per_minute, tokens_per_minute, clock)
    tokens = [n for n, _ in booked]
    times = starts(limit, clock, tokens, [pause for _, pause in booked])
    assert times == sorted(times), "requests start in the order they are booked"
    for start in times:
        window = [
            n for t, n in zip(times, tokens, strict=True) if start <= t < start + MINUTE - 1e-6
        ]
        assert len(window) <= per_minute
        assert sum(window) <= tokens_per_minute
