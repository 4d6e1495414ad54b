"""The loss, against a loop in NumPy and a worked example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer.losses import in_batch_softmax

# q0·i0 = 1, q0·i1 = 0.6, q1·i0 = 0, q1·i1 = 0.8
QUERIES = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
ITEMS = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)


def loss(
    queries: Any, items: Any, rows: Any, log_q: Any = None, weights: Any = None, temperature: float = 0.5
) -> float:
    count = len(queries)
    log_q = np.zeros(count) if log_q is None else log_q
    weights = np.ones(count) if weights is None else weights
    floats = [np.asarray(array, dtype=np.float32) for array in (log_q, weights)]
    return float(in_batch_softmax(queries, items, np.asarray(rows, dtype=np.int32), *floats, temperature))


def by_loop(queries: Any, items: Any, rows: Any, log_q: Any, weights: Any, temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries.astype(np.float64)):
        logits = {}
        for j, item in enumerate(items.astype(np.float64)):
            if j == i or rows[j] != rows[i]:
                logits[j] = query @ item / temperature - log_q[j]
        total += weights[i] * (np.log(sum(np.exp(logit) for logit in logits.values())) - logits[i])
    return total / sum(weights)


def test_worked_example() -> None:
    # Temperature 0.5 gives the logits [2.0, 1.2] and [0.0, 1.6].
    # Row 0: log(e^2.0 + e^1.2) - 2.0 = log(1 + e^-0.8) = log(1.449329) = 0.371101
    # Row 1: log(e^0.0 + e^1.6) - 1.6 = log(1 + e^-1.6) = log(1.201897) = 0.183901
    assert loss(QUERIES, ITEMS, [3, 4]) == pytest.approx((0.371101 + 0.183901) / 2, abs=1e-6)


def test_weights_weigh_the_rows() -> None:
    assert loss(QUERIES, ITEMS, [3, 4], weights=[3.0, 1.0]) == pytest.approx((3 * 0.371101 + 0.183901) / 4, abs=1e-6)


def test_log_q_lowers_the_logits_of_what_is_frequent() -> None:
    # Item 0 fills half of the batches (log 0.5 = -0.693147), item 1 a quarter (-1.386294): the logits become
    # [2.693147, 2.586294] and [0.693147, 2.986294].
    # Row 0: log(1 + e^-0.106853) = log(1.898658) = 0.641147;  row 1: log(1 + e^-2.293147) = log(1.100948) = 0.096172
    found = loss(QUERIES, ITEMS, [3, 4], log_q=np.log([0.5, 0.25]))
    assert found == pytest.approx((0.641147 + 0.096172) / 2, abs=1e-6)


def test_equals_a_loop_over_the_definition() -> None:
    generator = np.random.default_rng(2)
    queries, items = generator.normal(size=(2, 12, 5)).astype(np.float32)
    rows = generator.integers(0, 6, 12)  # most items stand there more than once
    log_q, weights = np.log(generator.uniform(0.01, 0.5, 12)), generator.uniform(0.1, 4.0, 12)
    arguments = (queries, items, rows, log_q, weights, 0.3)
    assert loss(*arguments) == pytest.approx(by_loop(*arguments), rel=1e-5)


def test_an_accidental_hit_is_no_negative() -> None:
    # Rows 0 and 2 hold one item: to each of them the other's column is as good as absent.
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32)
    items = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
    without_column_2 = loss(queries[:2], items[:2], [7, 8], weights=[1.0, 0.0])  # the loss of row 0 alone
    assert loss(queries, items, [7, 8, 7], weights=[1.0, 0.0, 0.0]) == pytest.approx(without_column_2, abs=1e-6)
    assert loss(queries, items, [7, 8, 9], weights=[1.0, 0.0, 0.0]) > without_column_2 + 0.3


def test_a_batch_of_one_item_has_nothing_to_learn() -> None:
    assert loss(QUERIES, ITEMS, [5, 5]) == pytest.approx(0.0, abs=1e-6)
