"""Item frequencies estimated from a stream: a worked example, the paper's algorithm, and known frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.model.negatives import FrequencyEstimator


def chances(estimator: FrequencyEstimator, rows: Any) -> np.ndarray:
    return np.exp(estimator(tf.constant(rows, tf.int32)).numpy())


class Skewed:
    """A stream of 50 items with probabilities in proportion to 1 / (r + 1) for item r: 0.2223 down to 0.0044."""

    def __init__(self) -> None:
        self.chances = 1.0 / np.arange(1, 51)
        self.chances /= self.chances.sum()
        self._generator = np.random.default_rng(4)

    def batch(self, size: int) -> np.ndarray:
        return self._generator.choice(50, size, p=self.chances).astype(np.int32)


def estimate(estimator: FrequencyEstimator, stream: Skewed, batches: int, size: int) -> np.ndarray:
    """Returns the last estimate of the probability of each item, [50], from the last 300 of `batches` batches."""
    step = tf.function(estimator, input_signature=[tf.TensorSpec((None,), tf.int32)])
    last = np.full(50, np.nan)
    for at in range(batches):
        rows = stream.batch(size)
        found = step(rows).numpy()
        if at >= batches - 300:
            last[rows] = np.exp(found)
    return last


def test_frequencies_worked_example() -> None:
    estimator = FrequencyEstimator(4, learning_rate=0.5)
    # 4 rows have passed: item 0 came twice, so every 2 rows; the others once in 4.
    np.testing.assert_allclose(chances(estimator, [0, 0, 1, 2]), [1 / 2, 1 / 2, 1 / 4, 1 / 4], rtol=1e-6)
    # 2 more: both came once in 2. Item 1: (4 + 2) / 2 = 3.  Item 0: (2 + 2) / 2 = 2.
    np.testing.assert_allclose(chances(estimator, [1, 0]), [1 / 3, 1 / 2], rtol=1e-6)
    # 1 more: item 1: (3 + 1) / 2 = 2.
    np.testing.assert_allclose(chances(estimator, [1]), [1 / 2], rtol=1e-6)
    # 4 more: items 1 and 3, for the first time, in 11 rows. Item 1: three visits in 4 rows, 4/3 each; three halvings
    # leave 1/8 of the 2: 2 / 8 + 4/3 * 7/8 = 17/12.
    np.testing.assert_allclose(chances(estimator, [1, 1, 3, 1]), [12 / 17, 12 / 17, 1 / 11, 12 / 17], rtol=1e-6)


def test_frequencies_begin_as_plain_means() -> None:
    estimator = FrequencyEstimator(4, learning_rate=0.1)
    # Intervals of 4, 2 and 1 rows: a mean of 4, 3 and 7/3.
    found = [chances(estimator, rows)[-1] for rows in ([0, 0, 2, 1], [0, 1], [1])]
    np.testing.assert_allclose(found, [1 / 4, 1 / 3, 3 / 7], rtol=1e-6)


def test_frequencies_of_single_rows_are_those_of_the_papers_loop() -> None:
    # Algorithm 2 with a time step a row, but for the even mean of the first 1 / 0.2 = 5 intervals.
    generator = np.random.default_rng(5)
    estimator = FrequencyEstimator(6, learning_rate=0.2)
    last, interval, visits = dict.fromkeys(range(6), 0), dict.fromkeys(range(6), 0.0), dict.fromkeys(range(6), 0)
    for now, row in enumerate(generator.choice(6, 400, p=[0.4, 0.3, 0.1, 0.1, 0.06, 0.04]).tolist(), start=1):
        visits[row] += 1
        rate = 0.2 if visits[row] > 5 else 1 / visits[row]
        interval[row] = (1 - rate) * interval[row] + rate * (now - last[row])
        last[row] = now
        assert chances(estimator, [row])[0] == pytest.approx(1 / interval[row], rel=1e-5)
    assert min(visits.values()) > 5


def test_frequencies_converge_to_those_of_a_skewed_stream() -> None:
    # A rate of 0.005 leaves intervals a relative deviation of sqrt(0.005 / 1.995) = 0.05; the rarest comes by
    # 4,000 * 64 * 0.0044 = 1,138 times. 0.2 is four deviations.
    stream = Skewed()
    found = estimate(FrequencyEstimator(100, learning_rate=0.005), stream, batches=4000, size=64)
    np.testing.assert_allclose(found, stream.chances, rtol=0.2)
    assert np.mean(np.log(found / stream.chances)) == pytest.approx(0.0, abs=0.03)


def test_frequencies_follow_an_item_that_becomes_popular() -> None:
    estimator = FrequencyEstimator(100, learning_rate=0.05)
    for _ in range(100):
        before = chances(estimator, [0, *range(1, 20)])[0]
    for _ in range(100):
        after = chances(estimator, [0] * 10 + [1] * 10)[0]
    assert (before, after) == (pytest.approx(1 / 20), pytest.approx(1 / 2, rel=1e-3))


def test_items_in_one_slot_are_taken_for_one() -> None:
    estimator = FrequencyEstimator(4)
    np.testing.assert_allclose(chances(estimator, [1, 5, 2, 3]), [1 / 2, 1 / 2, 1 / 4, 1 / 4], rtol=1e-6)


def test_more_hashes_tell_more_items_apart() -> None:
    errors = []
    for hashes in (1, 4):
        stream = Skewed()
        found = estimate(FrequencyEstimator(40, learning_rate=0.01, hashes=hashes), stream, batches=2000, size=32)
        errors.append(np.abs(np.log(found / stream.chances)))
    # Items 40 to 49 share a slot with 0 to 9; item 49 with item 9, which is five times as frequent.
    assert errors[0][49] > np.log(4.0)
    assert errors[1][49] < np.log(2.0)
    assert np.mean(errors[1]) < np.mean(errors[0]) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"buckets": 0}, "0 buckets"),
        ({"buckets": 1, "hashes": 0}, "0 hashes"),
        ({"buckets": 1, "learning_rate": 0.0}, "learning rate is 0.0"),
        ({"buckets": 1, "learning_rate": 1.1}, "learning rate is 1.1"),
    ],
)
def test_an_estimator_refuses_what_it_cannot_work_with(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrequencyEstimator(**arguments)
