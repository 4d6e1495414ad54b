"""The number of calls that may wait."""

from __future__ import annotations

import time

from retrieval.serving.answering.limit import WaitingLimit
from tests.retrieval.serving.answering.calls import Recorder, call


def test_calls_that_waited_long_lower_it_and_others_raise_it() -> None:
    limit, method, now = WaitingLimit(1000), Recorder(), time.monotonic()
    late = call(method, age_s=0.1, remaining_s=0.2)  # waited 0.1 of 0.3 s, more than a sixth
    limit.note(late, now, waiting=29)
    assert limit.value == 20  # two thirds of those that wait, this one included
    limit.note(late, now, waiting=29)
    assert limit.value == 20  # not lowered twice within 20 ms
    limit.note(late, now + 0.03, waiting=29)
    assert limit.value == 13
    early = call(method, age_s=0.01, remaining_s=0.29)
    for _ in range(28):
        limit.note(early, now + 0.03, waiting=0)
    assert limit.value == 15


def test_it_never_falls_below_four_and_goes_back_after_a_second_of_calm() -> None:
    limit, method = WaitingLimit(1000), Recorder()
    late = call(method, age_s=3.1, remaining_s=-2.8)
    started = time.monotonic() - 3.0
    for number in range(20):
        limit.note(late, started + 0.03 * number, waiting=5)
    assert limit._value == 4.0
    assert limit.value == 1000  # the last one was late more than a second ago
