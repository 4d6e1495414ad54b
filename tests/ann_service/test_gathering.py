"""Whom a turn waits for."""

from __future__ import annotations

import threading

import pytest

from ann_service import gathering as module
from ann_service.gathering import Gathering


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_as_many_are_expected_as_were_answered_and_wait_and_each_soon(clock: Clock) -> None:
    gathering = Gathering(most=8)
    assert not gathering.after_others()
    gathering.answered(1, clock.now - 0.002, waiting=0)
    assert not gathering.after_others()  # who was alone stays alone
    gathering.answered(1, clock.now - 0.002, waiting=2)
    assert gathering.expected == 3
    assert gathering.pause_s == pytest.approx(0.75 * 0.002)
    gathering.answered(4, clock.now - 0.002, waiting=0)
    assert gathering.expected == 4
    assert gathering.pause_s == pytest.approx(0.75 * 0.002 / 1.6)  # four cost 1.6 x one
    assert gathering.after_others()
    clock.now += 0.004
    assert not gathering.after_others()  # by now they would be back
    gathering.answered(7, clock.now - 60.0, waiting=7)
    assert gathering.expected == 8
    assert gathering.pause_s == 0.01  # whatever held it up


def test_what_is_in_vain_is_tried_ever_more_rarely_and_what_is_not_every_time(clock: Clock) -> None:
    gathering = Gathering(most=8)

    def tries(complete: bool, turns: int, others_came: bool = False) -> int:
        tried = 0
        for _ in range(turns):
            gathering.answered(2, clock.now - 0.001, waiting=1 if others_came else 0)
            came = threading.Lock()
            came.acquire()
            if gathering.begin(came, waiting=0):
                tried += 1
                if complete:
                    gathering.came(waiting=gathering.expected - 1)
                    assert came.acquire(blocking=False)
                gathering.end(came, waiting=gathering.expected - 1 if complete else 0)
        return tried

    assert tries(complete=True, turns=100) == 100
    assert tries(complete=False, turns=170) < 15
    assert tries(complete=True, turns=100) > 60
    assert tries(complete=True, turns=170, others_came=True) < 15  # they do not wait for answers
