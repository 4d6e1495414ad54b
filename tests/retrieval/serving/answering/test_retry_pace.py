"""The pauses that refused callers are asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from retrieval.serving.answering.retry_pace import LONGEST_PAUSE_S, SHORTEST_PAUSE_S, TRIES_A_S, RetryPace


def test_a_caller_that_is_refused_alone_comes_back_soon() -> None:
    pace = RetryPace()
    assert [pace.next_pause_s(now) for now in (100.0, 101.0, 102.0)] == [SHORTEST_PAUSE_S] * 3


def test_callers_that_are_refused_together_come_back_one_after_another() -> None:
    pace = RetryPace()
    count = 1000
    pauses = [pace.next_pause_s(100.0) for _ in range(count)]
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[0] == SHORTEST_PAUSE_S
    assert pauses[-1] == pytest.approx(SHORTEST_PAUSE_S + count / TRIES_A_S, abs=0.11)
    for second in range(int(count / TRIES_A_S)):
        due = [pause for pause in pauses if second <= pause < second + 1]
        assert len(due) <= TRIES_A_S * 1.1


def test_the_pause_has_a_bound_and_is_forgotten_when_its_time_has_passed() -> None:
    pace = RetryPace()
    pauses = [pace.next_pause_s(100.0) for _ in range(100_000)]
    assert max(pauses) == LONGEST_PAUSE_S
    assert pace.next_pause_s(100.0 + LONGEST_PAUSE_S) == SHORTEST_PAUSE_S
