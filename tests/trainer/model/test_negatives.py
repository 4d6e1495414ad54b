"""Samplers and queues of negatives, each against a loop in NumPy and a worked example."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model import negatives
from trainer.model.negatives import CrossBatchQueue, FrequencyEstimator, NegativeSampler, mine_hard_negatives


def test_a_draw_is_where_the_cumulative_chances_pass_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chances 0.5, 0, 0.25, 0.25 add up to 0.5, 0.5, 0.75, 1.0.
    points = [0.0, 0.499, 0.5, 0.749, 0.75, 0.999]
    monkeypatch.setattr(keras.random, "uniform", lambda shape, dtype, seed: tf.constant(points, dtype))
    rows, log_count = NegativeSampler(np.array([0.5, 0.0, 0.25, 0.25]), 6)()
    assert (rows.dtype, log_count.dtype) == (tf.int32, tf.float32)
    assert rows.numpy().tolist() == [0, 0, 2, 2, 3, 3]
    # In 6 draws item 0 is expected 3 times, items 2 and 3 each 1.5 times.
    np.testing.assert_allclose(log_count, np.log([3.0, 3.0, 1.5, 1.5, 1.5, 1.5]), rtol=1e-6)


def test_draws_have_the_chances_they_were_given() -> None:
    falling = 1.0 / np.arange(1, 51)  # 0.2223 down to 0.0044
    given = np.concatenate([[0.0], falling / falling.sum(), [0.0]])
    rows, _ = NegativeSampler(given, 400_000, seed=6)()
    found = np.bincount(rows.numpy(), minlength=52) / 400_000
    # The rarest is expected 400,000 * 0.00444 = 1,778 times, with a relative deviation of 1 / sqrt(1,778) = 0.024.
    np.testing.assert_allclose(found, given, rtol=0.1)


def test_rare_items_of_a_large_catalogue_are_drawn() -> None:
    # All but one draw in ten million go to the first item. Points in float32 lie 2^-24 apart near 1, and could reach at
    # most two of the other hundred thousand items.
    given = np.full(100_001, 1e-12)
    given[0] = 1.0 - 1e-7
    generator = np.random.default_rng(7)
    cumulative = np.cumsum(given)
    point = 1.0 - generator.uniform(0.0, 1e-7, 50)
    sampler = NegativeSampler(given, 50)
    expected = np.searchsorted(cumulative / cumulative[-1], point, side="right")
    assert len(set(expected.tolist())) == 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.random, "uniform", lambda shape, dtype, seed: tf.constant(point, dtype))
        assert sampler()[0].numpy().tolist() == expected.tolist()


def test_each_draw_in_a_graph_is_another_and_the_seed_gives_them_again() -> None:
    samplers = [NegativeSampler(np.full(1000, 0.001), 20, seed=8) for _ in range(2)]
    draws = [[step()[0].numpy().tolist() for _ in range(3)] for step in map(tf.function, samplers)]
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1] != draws[0][2]


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        ([0.5, 0.6], 1, "sum of 1.1"),
        ([1.5, -0.5], 1, "-0.5 or above"),
        ([np.nan, 1.0], 1, "sum of nan"),
        ([[1.0]], 1, "shape (1, 1)"),
        ([], 1, "shape (0,)"),
        ([1.0], 0, "0 negatives to draw"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_draw_from(given: Any, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        NegativeSampler(np.array(given), count)


def push(queue: CrossBatchQueue, *rows: int) -> None:
    """Pushes rows with vectors [row, -row] and log_q -row / 10."""
    of = np.array(rows, dtype=np.float32)
    queue.push(tf.constant(np.stack([of, -of], axis=1)), tf.constant(rows, tf.int32), tf.constant(-of / 10))


def held(queue: CrossBatchQueue) -> tuple[list[int], list[list[float]], list[float]]:
    vectors, rows, log_count = queue.candidates()[:3]
    return rows.numpy().tolist(), vectors.numpy().tolist(), np.round(log_count.numpy().astype(np.float64), 6).tolist()


def test_a_queue_holds_the_newest_and_says_which_slots_are_empty() -> None:
    queue = CrossBatchQueue(3, 2)
    assert held(queue)[0] == [-1, -1, -1]
    push(queue, 1, 2)
    assert held(queue) == ([-1, 1, 2], [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]], [0.0, -0.1, -0.2])
    push(queue, 3, 4)
    assert held(queue) == ([2, 3, 4], [[2.0, -2.0], [3.0, -3.0], [4.0, -4.0]], [-0.2, -0.3, -0.4])


def test_a_queue_keeps_the_end_of_a_batch_that_exceeds_it() -> None:
    queue = CrossBatchQueue(3, 2)
    push(queue, 1, 2, 3, 4, 5)
    assert held(queue) == ([3, 4, 5], [[3.0, -3.0], [4.0, -4.0], [5.0, -5.0]], [-0.3, -0.4, -0.5])


def test_candidates_taken_before_a_push_in_a_graph_are_those_of_earlier_batches() -> None:
    queue = CrossBatchQueue(3, 2)

    @tf.function(input_signature=[tf.TensorSpec((None, 2)), tf.TensorSpec((None,), tf.int32)])
    def step(vectors: Any, rows: Any) -> Any:
        before = queue.candidates()
        queue.push(vectors, rows, tf.zeros(tf.shape(rows)))
        return before.rows

    seen = [step(tf.ones((len(rows), 2)), tf.constant(rows)).numpy().tolist() for rows in ([1], [2, 3], [4])]
    assert seen == [[-1, -1, -1], [-1, -1, 1], [1, 2, 3]]


def test_no_gradient_flows_through_a_queue() -> None:
    queue, vectors = CrossBatchQueue(2, 2), tf.constant([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        queue.push(vectors, tf.constant([1, 2]), tf.zeros(2))
        value = tf.reduce_sum(queue.candidates().vectors * vectors)
    # The derivative of held · vectors is what is held; were the way through the queue open, it would be twice that.
    np.testing.assert_array_equal(tape.gradient(value, vectors), [[1.0, 2.0], [3.0, 4.0]])


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity 0"):
        CrossBatchQueue(0, 2)


class Negatives(keras.Model):
    """A model with all layers that have state: estimator, sampler and queue."""

    def __init__(self) -> None:
        super().__init__()
        self.estimator = FrequencyEstimator(20, hashes=2)
        self.sampler = NegativeSampler(np.full(10, 0.1), 5)
        self.queue = CrossBatchQueue(6, 2)

    def step(self, rows: Any) -> list[list[float]]:
        log_q = self.estimator(tf.constant(rows, tf.int32))
        drawn, _ = self.sampler()
        self.queue.push(tf.random.stateless_normal((len(rows), 2), (1, len(rows))), tf.constant(rows, tf.int32), log_q)
        return [part.numpy().tolist() for part in (log_q, drawn, *self.queue.candidates()[:3])]


def test_the_variables_of_a_model_are_all_of_the_state() -> None:
    first, second = Negatives(), Negatives()
    first.step([1, 2, 2])
    assert first.step([2, 3]) != second.step([2, 3])
    assert not first.trainable_variables
    for to, variable in zip(second.variables, first.variables, strict=True):
        to.assign(variable)
    assert first.step([3, 1, 4, 4]) == second.step([3, 1, 4, 4])


class HalfPrecision(keras.layers.Layer):
    """A layer whose policy casts the variables that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.estimator = CrossBatchQueue(2, 2), FrequencyEstimator(5000)

    def call(self, rows: Any) -> Any:
        log_q = self.estimator(rows)
        self.queue.push(tf.ones((2, 2), self.compute_dtype), rows[-2:], log_q[-2:])
        return log_q, self.queue.candidates().log_count


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_leaves_the_state_alone(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        # Neither half precision can hold 3,001.
        log_q, held_log_q = HalfPrecision()(tf.concat([tf.zeros(3000, tf.int32), [1]], 0))
    finally:
        keras.config.set_dtype_policy(before)
    assert log_q.dtype == held_log_q.dtype == tf.float32
    assert float(log_q[-1]) == pytest.approx(-np.log(3001.0), rel=1e-6)
    assert float(held_log_q[-1]) == pytest.approx(-np.log(3001.0), rel=1e-6)


def test_hard_negatives_worked_example() -> None:
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0]], dtype=np.float32)
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    known = [np.array([1]), np.array([], dtype=np.int32), np.array([4, 0, 2, 4])]
    # Query 0 has items 0, 2, 3, 4 in this order, without 1; 0 is skipped.
    # Query 1 has 4, 3, 2, 1, 0; 4 is skipped. Query 2 has 1, 3; 1 is skipped.
    found = mine_hard_negatives(queries, vectors, known, count=2, skip=1)
    assert found.dtype == np.int32
    assert found.tolist() == [[2, 3], [3, 2], [3, -1]]


def test_hard_negatives_of_one_who_knows_all_are_none() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert mine_hard_negatives(vectors[:1], vectors, [np.arange(3)], count=4, skip=0).tolist() == [[-1, -1, -1, -1]]
    assert mine_hard_negatives(vectors[:1], vectors, [np.arange(0)], count=1, skip=3).tolist() == [[-1]]


@pytest.mark.parametrize("block_scores", [2**23, 7 * 30, 1])
def test_hard_negatives_equal_a_loop_whatever_the_block(block_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "_BLOCK_SCORES", block_scores)
    generator = np.random.default_rng(9)
    queries, vectors = (generator.normal(size=(n, 4)).astype(np.float32) for n in (20, 30))
    known = [generator.integers(0, 30, generator.integers(0, 60)) for _ in range(20)]
    expected = []
    for query, theirs in zip(queries, known, strict=True):
        nearest = sorted(range(30), key=lambda row, query=query: -float(query @ vectors[row]))
        unknown = [row for row in nearest if row not in set(theirs.tolist())]
        expected.append((unknown[3:9] + [-1] * 6)[:6])
    assert any(-1 in rows for rows in expected)
    assert mine_hard_negatives(queries, vectors, known, count=6, skip=3).tolist() == expected


@pytest.mark.parametrize(
    ("queries", "vectors", "known", "count", "skip"),
    [((2, 3), (4, 2), 2, 1, 0), ((2, 3), (4, 3), 1, 1, 0), ((2, 3), (4, 3), 2, 0, 0), ((2, 3), (4, 3), 2, 1, -1)],
)
def test_hard_negatives_refuse_what_does_not_fit(
    queries: tuple[int, int], vectors: tuple[int, int], known: int, count: int, skip: int
) -> None:
    with pytest.raises(ValueError, match="give"):
        mine_hard_negatives(np.ones(queries), np.ones(vectors), [np.arange(1)] * known, count, skip)
