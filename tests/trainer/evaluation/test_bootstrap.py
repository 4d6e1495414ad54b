"""Bootstrap intervals of means over users."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trainer.evaluation import bootstrap


def test_agrees_with_the_normal_interval_of_many_users() -> None:
    values = np.random.default_rng(3).normal([[2.0, -1.0]], [[0.5, 5.0]], (4000, 2))
    low, high = bootstrap.bootstrap(values)
    # The means of 4,000 values have standard errors of 0.5 / sqrt(4000) = 0.0079 and 0.079; 1.96 of them are 0.0155.
    for column, half in enumerate((0.0155, 0.155)):
        assert low[column] == pytest.approx(values[:, column].mean() - half, abs=0.2 * half)
        assert high[column] == pytest.approx(values[:, column].mean() + half, abs=0.2 * half)


def test_agrees_with_scipy_on_skewed_values() -> None:
    generator = np.random.default_rng(5)
    values = generator.random((300, 4)) * (generator.random((300, 4)) < 0.2)  # most users have 0, as with metrics
    expected = stats.bootstrap((values,), np.mean, axis=0, n_resamples=4000, method="percentile", rng=6, batch=100)
    found = bootstrap.bootstrap(values, resamples=4000)
    widths = found[1] - found[0]
    # The ends of 4,000 draws differ by up to 4.4 % of the width from seed to seed.
    assert (np.abs(found - np.stack(expected.confidence_interval)) < 0.1 * widths).all()


def test_one_user_and_equal_users_leave_no_doubt() -> None:
    assert bootstrap.bootstrap(np.array([[0.25]])).tolist() == [[0.25], [0.25]]
    np.testing.assert_allclose(bootstrap.bootstrap(np.full((50, 1), 0.5)), [[0.5], [0.5]])


def test_pairing_takes_out_what_both_share() -> None:
    generator = np.random.default_rng(4)
    users = generator.normal(0.0, 10.0, (500, 1))  # hard and easy users: both methods do alike
    difference, low, high = bootstrap.paired(users + 0.1 + generator.normal(0, 0.01, (500, 1)), users)
    assert difference[0] == pytest.approx(0.1, abs=0.002)
    assert 0.095 < low[0] < difference[0] < high[0] < 0.105


def test_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((30, 3))
    whole = bootstrap.bootstrap(values)
    monkeypatch.setattr(bootstrap, "_CELLS", 90)  # three resamples at a time
    np.testing.assert_allclose(bootstrap.bootstrap(values), whole)


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="2 and 3 users"):
        bootstrap.paired(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="no values"):
        bootstrap.bootstrap(np.zeros((0, 1)))
