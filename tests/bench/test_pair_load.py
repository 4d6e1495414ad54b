"""Load in a closed loop and on a schedule."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from bench.pair_load import closed_loop, open_loop, schedule


def test_a_schedule_has_its_rate_evenly_or_at_random() -> None:
    np.testing.assert_allclose(schedule(4.0, 1.0, None), [0.0, 0.25, 0.5, 0.75])
    drawn = schedule(1000.0, 100.0, 1)
    assert len(drawn) == 100_000
    assert (np.diff(drawn) > 0).all()
    gaps = np.diff(drawn)
    # Exponential gaps: mean and standard deviation are both 1 / rate; 1 % is three standard errors of the mean.
    assert gaps.mean() == pytest.approx(0.001, rel=0.01)
    assert gaps.std() == pytest.approx(0.001, rel=0.02)


def test_every_call_that_is_due_is_sent_once_and_its_wait_counts() -> None:
    seen: list[int] = []
    blocked = threading.Event()

    def call(number: int) -> None:
        seen.append(number)
        if number == 0:
            blocked.wait()
        if number == 4:
            blocked.set()

    # Two callers, and the first call keeps one until the last is sent: the other sends all the rest.
    found = open_loop(call, 2, np.array([0.0, 0.001, 0.002, 0.003, 0.004]))
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert len(found.latencies_ms) == 5
    # It was due at 0 and could end only when the last was sent, 4 ms later.
    assert found.latencies_ms.max() >= 4.0


def test_callers_of_a_closed_loop_share_the_numbers() -> None:
    seen: list[int] = []
    found = closed_loop(seen.append, 2, 0.01, queries_a_call=100)
    assert len(found.latencies_ms) == len(seen)
    assert {0, 1} <= set(seen)
    assert len(set(seen)) == len(seen)
    assert found.queries_per_s > 0
