"""Properties of every loss: row weights, masked accidental hits, half precision, one graph for all batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.model.loss_cases import ITEMS, NEGATIVES, QUERIES, ROWS, SAMPLED, Loss, candidates, floats, sampled
from trainer.model.losses import Candidates, in_batch_softmax


def extra_in_batch(queries: Any, positives: Any, rows: Any, negatives: Any, weights: Any, temperature: float) -> Any:
    return in_batch_softmax(queries, positives, rows, tf.zeros(len(rows)), weights, temperature, extra=negatives)


WITH_NEGATIVES = [*SAMPLED, pytest.param(extra_in_batch, id="in_batch_softmax")]


@pytest.mark.parametrize("loss", SAMPLED)
def test_weights_weigh_the_rows(loss: Loss) -> None:
    first, second = sampled(loss, weights=[1.0, 0.0]), sampled(loss, weights=[0.0, 1.0])
    assert abs(first - second) > 0.1
    assert sampled(loss, weights=[3.0, 1.0]) == pytest.approx((3 * first + second) / 4, abs=1e-6)


@pytest.mark.parametrize("loss", WITH_NEGATIVES)
def test_hits_and_empty_slots_are_invisible(loss: Loss) -> None:
    # Row 1 alone counts. To it the first negative is its own item and the third is empty; the second is seen.
    queries, positives, rows, weights = floats(QUERIES), floats(ITEMS), tf.constant(ROWS), floats([0.0, 1.0])
    found, gradients = [], []
    for vectors in (NEGATIVES.vectors, [[-900.0, 900.0], [0.0, 1.0], [900.0, 900.0]]):
        negatives = candidates(NEGATIVES._replace(vectors=vectors))
        with tf.GradientTape() as tape:
            tape.watch(negatives.vectors)
            value = loss(queries, positives, rows, negatives, weights, 0.5)
        found.append(float(value))
        gradients.append(tape.gradient(value, negatives.vectors).numpy())
    assert found[0] == found[1]
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[[0, 2]], np.zeros((2, 2)))
        assert np.abs(gradient[1]).max() > 0.1


def test_hits_in_the_batch_are_invisible() -> None:
    # Rows 0 and 2 hold one item, and row 0 alone counts: to it column 2 is hidden, column 1 is not.
    queries, found = floats([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]), []
    for hit in ([0.8, 0.6], [900.0, 0.0]):
        items = floats([[1.0, 0.0], [0.6, 0.8], hit])
        with tf.GradientTape() as tape:
            tape.watch(items)
            value = in_batch_softmax(queries, items, tf.constant([7, 8, 7]), tf.zeros(3), floats([1.0, 0.0, 0.0]), 0.5)
        found.append(float(value))
        gradient = tape.gradient(value, items).numpy()
        np.testing.assert_array_equal(gradient[2], [0.0, 0.0])
        assert np.abs(gradient[1]).max() > 0.1
    assert found[0] == found[1]


@pytest.mark.parametrize("loss", WITH_NEGATIVES)
def test_rows_of_weight_0_alone_are_a_loss_of_0(loss: Loss) -> None:
    queries = floats(QUERIES)
    with tf.GradientTape() as tape:
        tape.watch(queries)
        value = loss(queries, floats(ITEMS), tf.constant(ROWS), candidates(NEGATIVES), floats([0.0, 0.0]), 0.5)
    assert float(value) == 0.0
    np.testing.assert_array_equal(tape.gradient(value, queries).numpy(), np.zeros((2, 2)))


@pytest.mark.parametrize("loss", WITH_NEGATIVES)
def test_a_row_that_sees_no_negative_is_finite(loss: Loss) -> None:
    queries, negatives = floats([[1.0, 0.0]]), candidates(NEGATIVES._replace(rows=[-1, -1, 6]))
    with tf.GradientTape() as tape:
        tape.watch(queries)
        value = loss(queries, queries, tf.constant([6]), negatives, floats([1.0]), 0.5)
    assert np.isfinite(float(value))
    assert np.all(np.isfinite(tape.gradient(value, queries).numpy()))


@pytest.mark.parametrize("loss", WITH_NEGATIVES)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: tf.DType) -> None:
    # The same numbers in half precision and in float32. At temperature 0.001 scores reach hundreds, whose exponential
    # none of them can hold, and which half precision rounds.
    vectors = tf.constant([[0.31, 0.73], [0.77, -0.47], [-0.53, 0.71]], dtype)
    log_count, weights = tf.constant([0.3, 1.7, 0.0], dtype), tf.constant([0.7, 2.1], dtype)
    results = []
    for kind in (dtype, tf.float32):
        negatives = Candidates(tf.cast(vectors, kind), tf.constant([9, 8, -1]), tf.cast(log_count, kind))
        queries = tf.cast(vectors[:2], kind)
        positives = tf.reverse(queries, [0])
        results.append(loss(queries, positives, tf.constant(ROWS), negatives, tf.cast(weights, kind), 0.001))
    assert results[0].dtype == tf.float32
    assert np.isfinite(float(results[1]))
    assert float(results[0]) == pytest.approx(float(results[1]), rel=1e-6)


@pytest.mark.parametrize("loss", SAMPLED)
def test_batches_of_any_size_share_one_graph(loss: Loss) -> None:
    vectors, rows = tf.TensorSpec((None, None)), tf.TensorSpec((None,), tf.int32)
    numbers = tf.TensorSpec((None,))

    @tf.function(input_signature=[vectors, vectors, rows, (vectors, rows, numbers), numbers, tf.TensorSpec(())])
    def in_graph(queries: Any, positives: Any, at: Any, negatives: Any, weights: Any, temperature: Any) -> Any:
        return loss(queries, positives, at, Candidates(*negatives), weights, temperature)

    def graph(queries: Any, positives: Any, at: Any, negatives: Candidates, *rest: Any) -> Any:
        return in_graph(queries, positives, at, negatives[:3], *rest)

    assert sampled(graph) == pytest.approx(sampled(loss), rel=1e-6)
    one = (QUERIES[:1], ITEMS[:1], ROWS[:1], NEGATIVES, [1.0])
    assert sampled(graph, *one) == pytest.approx(sampled(loss, *one), rel=1e-6)


@pytest.mark.parametrize("loss", SAMPLED[1:])
def test_a_bias_of_the_binary_losses_is_added_to_every_score(loss: Loss) -> None:
    # At temperature 0.5 a third component that is 1 for queries and 0.35 for items adds 0.7 to every score.
    queries = floats([[*row, 1.0] for row in QUERIES])
    items, negatives = floats([[*row, 0.35] for row in ITEMS]), [[*row, 0.35] for row in NEGATIVES.vectors]
    weights, rows = floats([1.0, 1.0]), tf.constant(ROWS)
    expected = loss(queries, items, rows, candidates(NEGATIVES._replace(vectors=negatives)), weights, 0.5)
    found = loss(floats(QUERIES), floats(ITEMS), rows, candidates(NEGATIVES), weights, 0.5, bias=0.7)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert abs(sampled(loss) - float(found)) > 0.01
