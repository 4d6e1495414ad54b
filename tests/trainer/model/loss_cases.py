"""Small batches on which the losses are tested."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.model.losses import Candidates, binary_cross_entropy, gbce, sampled_softmax

# q0·i0 = 1, q0·i1 = 0.6, q1·i0 = 0, q1·i1 = 0.8
QUERIES = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
ITEMS = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
ROWS = [3, 4]

# Divided by a temperature of 0.5, the pairs score 2.0 and 1.6, and the negatives
#   row 4: q0 1.2, q1 1.6, which is q1's own item and hidden from it;
#   row 9: q0 0.0, q1 2.0, expected twice;
#   an empty slot, hidden from both.
NEGATIVES = Candidates([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]], [4, 9, -1], np.log([1.0, 2.0, 1.0]))

Loss = Callable[..., tf.Tensor]
GBCE = functools.partial(gbce, sampling_rate=0.5, calibration=0.75)
SAMPLED = [
    pytest.param(sampled_softmax, id="sampled_softmax"),
    pytest.param(GBCE, id="gbce"),
    pytest.param(binary_cross_entropy, id="binary_cross_entropy"),
]
"""Losses that `sampled` calls."""


def floats(values: Any) -> tf.Tensor:
    return tf.constant(np.asarray(values), tf.float32)


def candidates(negatives: Candidates) -> Candidates:
    is_hard = None if negatives.is_hard is None else tf.constant(negatives.is_hard, tf.bool)
    vectors, rows, log_count = negatives[:3]
    return Candidates(floats(vectors), tf.constant(rows, tf.int32), floats(log_count), is_hard, negatives.ceiling)


def sampled(
    loss: Loss,
    queries: Any = QUERIES,
    positives: Any = ITEMS,
    rows: Any = ROWS,
    negatives: Candidates = NEGATIVES,
    weights: Any = (1.0, 1.0),
    temperature: float = 0.5,
    **options: Any,
) -> float:
    arguments = (floats(queries), floats(positives), tf.constant(rows, tf.int32), candidates(negatives))
    return float(loss(*arguments, floats(weights), temperature, **options))


class Case:
    """A batch in float64 whose rows all differ, in which most items occur more than once."""

    def __init__(self) -> None:
        generator = np.random.default_rng(2)
        unit = generator.normal(size=(40, 5))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        self.queries, self.positives, vectors = unit[:12], unit[12:24], unit[24:]
        self.rows = generator.integers(0, 6, 12)
        self.negatives = Candidates(vectors, generator.integers(-1, 8, 16), np.log(generator.uniform(0.01, 3.0, 16)))
        self.log_q = np.log(generator.uniform(0.01, 0.5, 12))
        self.weights = generator.uniform(0.1, 4.0, 12)
        self.labels = generator.uniform(0.0, 1.0, 12)
        self.temperature = 0.3

    def score(self, i: int, vector: np.ndarray) -> float:
        return float(self.queries[i] @ vector) / self.temperature

    def seen(self, i: int) -> list[tuple[float, float]]:
        """Score and log_count of each negative that row i sees."""
        return [
            (self.score(i, vector), log_count)
            for vector, row, log_count in zip(*self.negatives[:3], strict=True)
            if row != -1 and row != self.rows[i]
        ]

    def mean(self, losses: list[float]) -> float:
        return sum(loss * weight for loss, weight in zip(losses, self.weights, strict=True)) / sum(self.weights)
