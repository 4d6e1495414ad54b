"""Intervals of means over users."""

from __future__ import annotations

import numpy as np
import pytest

from trainer import intervals


def test_agrees_with_the_normal_interval_of_many_users() -> None:
    values = np.random.default_rng(3).normal(2.0, 0.5, 4000)
    low, high = intervals.bootstrap(values)
    # The mean of 4,000 values has a standard error of 0.5 / sqrt(4000) = 0.0079; 1.96 of them are 0.0155.
    assert low == pytest.approx(values.mean() - 0.0155, abs=0.0015)
    assert high == pytest.approx(values.mean() + 0.0155, abs=0.0015)


def test_one_user_and_equal_users_leave_no_doubt() -> None:
    assert intervals.bootstrap(np.array([0.25])) == (0.25, 0.25)
    assert intervals.bootstrap(np.full(50, 0.5)) == (0.5, 0.5)


def test_pairing_takes_out_what_both_share() -> None:
    generator = np.random.default_rng(4)
    users = generator.normal(0.0, 10.0, 500)  # hard and easy users: both methods do alike
    difference, low, high = intervals.paired(users + 0.1 + generator.normal(0, 0.01, 500), users)
    assert difference == pytest.approx(0.1, abs=0.002)
    assert 0.095 < low < difference < high < 0.105


def test_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(30)
    whole = intervals.bootstrap(values)
    monkeypatch.setattr(intervals, "_CELLS", 90)  # three resamples at a time
    assert intervals.bootstrap(values) == whole


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="2 and 3 values"):
        intervals.paired(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="no values"):
        intervals.bootstrap(np.zeros(0))
