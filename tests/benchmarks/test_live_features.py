"""What judges live features: histories that lack, repeat or misplace events, and histories cut at a time."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import live_session
from benchmarks.quality.live_session import ENDS, Requests
from benchmarks.services.live_features.loss import Found, compare
from trainer.data.events import Events


@pytest.mark.parametrize(
    ("items", "found"),
    [
        (["a", "b", "c"], Found()),
        (["a", "c"], Found(lost=1)),
        ([], Found(lost=3)),
        (["a", "b", "b", "c"], Found(doubled=1)),
        (["a", "x", "b", "c"], Found(doubled=1)),  # that nobody wrote
        (["b", "a", "c"], Found(misplaced=1)),
        (["c", "b", "b"], Found(lost=1, doubled=1, misplaced=1)),
    ],
)
def test_a_history_is_compared_with_what_was_written(items: list[str], found: Found) -> None:
    told = Found()
    compare(items, ["a", "b", "c"], told)
    assert told == found


DAY = 10 * 86_400.0
"""A midnight."""


def events() -> Events:
    """Events of user 0 around a midnight, two of them in one second, and of user 1."""
    times = np.array([-7200.0, -3000.0, 100.0, 130.0, 130.0, 800.0, 131.0]) + DAY
    users = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.int32)
    return Events(users, np.arange(7, dtype=np.int32), times, np.ones(7, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        # Of the requests of rows 3 (130 s after midnight), 4 (the same second), 5 (800 s) and 6 (131 s, user 1).
        (live_session.AT_EVENT, [3, 3, 5, 6]),
        ("1 minute before", [2, 2, 5, 6]),
        ("10 minutes before", [2, 2, 5, 6]),
        ("1 hour before", [1, 1, 2, 6]),
        (live_session.MIDNIGHT, [2, 2, 2, 6]),
    ],
)
def test_a_history_ends_at_a_time_and_without_events_of_the_same_second(name: str, ends: list[int]) -> None:
    every = events()
    requests = Requests.of(every, every.take(np.array([3, 4, 5, 6])), 2)
    assert requests.first.tolist() == [0, 0, 0, 6]
    assert requests.ends(every, ENDS[name](requests.times)).tolist() == ends


def test_a_film_counts_by_its_rank_up_to_ten_and_a_user_by_the_mean_of_the_own_requests() -> None:
    # 1 / log2(2), 1 / log2(4), 1 / log2(11), nothing.
    assert live_session.gains(np.array([1, 3, 10, 11])) == pytest.approx([1.0, 0.5, 0.28906, 0.0], abs=1e-5)
    users, values = np.array([0, 0, 2, 0]), np.array([1.0, 0.0, 0.25, 0.5])
    assert live_session.of_users(users, values) == pytest.approx([0.5, 0.25])  # user 1 has no request
