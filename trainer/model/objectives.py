"""Training objectives: loss functions together with the state that they keep between steps.

A training step calls an objective twice:

```
draw(batch) ─► rows of negatives ─► the towers embed queries, positives and negatives ─► loss(…)
```

`trainer.model.losses` has the formulas. The state (a sampler, a queue of earlier batches, an estimate of frequencies, a
bias) is in variables, so that checkpoints of the model include it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.model import losses
from trainer.model.losses import Candidates
from trainer.model.negatives import CrossBatchQueue, FrequencyEstimator, NegativeSampler
from trainer.recipe.training import Training

_ESTIMATOR_RATE = 0.05
"""Learning rate of the estimate of item frequencies."""


class Pairs(NamedTuple):
    """Items that belong to the queries of a step, gathered from all devices.

    Attributes:
        rows: [m] int32, catalogue row of each query's item.
        weights: [m] float32, weight of each query-item pair in the loss.
        labels: [m] float32, relevance of the item to the query, 0 to 1.
        log_q: [m] float32, log of the probability that a row of a batch is this item.
    """

    rows: tf.Tensor
    weights: tf.Tensor
    labels: tf.Tensor
    log_q: tf.Tensor

    @property
    def relevance(self) -> tf.Tensor:
        """Weight of each query-item pair in a softmax loss: [m] float32, 0 if the item is irrelevant to the query."""
        return self.weights * self.labels


class Draw(NamedTuple):
    """Negatives of a step, before they are embedded.

    Attributes:
        rows: [c] int32, catalogue rows of the negatives; -1 is an empty entry.
        log_count: [c] float32, log of the expected count of each item in the sample, see `Candidates`.
        is_hard: [c] bool, whether each item is a hard negative, see `Candidates`. Default: no negative is hard.
    """

    rows: tf.Tensor
    log_count: tf.Tensor
    is_hard: tf.Tensor | None = None


class Objective(keras.layers.Layer):
    """Base class of the objectives, whose `draw` returns no negatives."""

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.built = True

    def draw(self, batch: Mapping[str, Any]) -> Draw | None:
        """Returns the negatives of a batch, or None if the whole catalogue is to be embedded.

        Args:
            batch: Batch, as `trainer.training.examples.Examples.batch` returns it.
        """
        rows = batch["item"][:0]
        return Draw(rows, tf.zeros_like(rows, tf.float32))

    def loss(
        self,
        queries: tf.Tensor,
        positives: tf.Tensor,
        negatives: tf.Tensor,
        draw: Draw | None,
        pairs: Pairs,
        temperature: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the loss of a step, a scalar.

        Args:
            queries: [m, dim] float32, unit length.
            positives: [m, dim] float32, unit length; row i is the item of query i.
            negatives: [c, dim] float32, unit length; embeddings of the negatives in `draw`, or of the whole catalogue
                if `draw` is None.
            draw: Result of the method `draw` for this step.
            pairs: Rows, weights and labels of the items of the queries.
            temperature: Scalar above 0.
        """
        raise NotImplementedError


class FullSoftmax(Objective):
    """Softmax over the whole catalogue: exact, and affordable for small catalogues."""

    def draw(self, batch: Mapping[str, Any]) -> Draw | None:
        """Returns None, because every item of the catalogue is a candidate."""
        return None

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns `losses.full_softmax` of the step, a scalar."""
        return losses.full_softmax(queries, negatives, pairs.rows, pairs.relevance, temperature)


class InBatchSoftmax(Objective):
    """Softmax over the items of the batch, corrected for their popularity.

    Args:
        counts: [item_count] int64, training events of each item.
        dim: Dimension of the item vectors.
        queue: Number of item vectors of earlier batches that are further negatives; 0 for none.
        streaming: Whether the popularity is estimated from the batches, instead of from `counts`.
    """

    def __init__(self, counts: np.ndarray, dim: int, *, queue: int, streaming: bool) -> None:
        super().__init__()
        self.queue = CrossBatchQueue(queue, dim) if queue else None
        self.estimator = FrequencyEstimator(2 * len(counts), learning_rate=_ESTIMATOR_RATE) if streaming else None

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns `losses.in_batch_softmax` of the step, a scalar, and adds the items of the batch to the queue."""
        log_q = self.estimator(pairs.rows) if self.estimator else pairs.log_q
        extra = self.queue.candidates() if self.queue else None
        loss = losses.in_batch_softmax(queries, positives, pairs.rows, log_q, pairs.relevance, temperature, extra=extra)
        if self.queue:
            self.queue.push(positives, pairs.rows, log_q)
        return loss


class _Sampled(Objective):
    """Base class of the objectives with negatives drawn from the catalogue.

    Args:
        training: Training keys of a recipe, which set number and distribution of the negatives.
        counts: [item_count] int64, training events of each item.
        bias: Whether a bias of the logits is learned.
    """

    def __init__(self, training: Training, counts: np.ndarray, *, bias: bool = False) -> None:
        super().__init__()
        if bias:
            # Initially the log odds of a positive among the negatives.
            log_odds = keras.initializers.Constant(-float(np.log(training.negatives)))
            self.bias = self.add_weight(name="bias", initializer=log_odds)
        weights = np.ones(len(counts)) if training.sampling == "uniform" else counts**training.sampling_power
        self._probabilities = weights / weights.sum()  # [item_count]
        self.sampler = NegativeSampler(self._probabilities, training.negatives)

    def draw(self, batch: Mapping[str, Any]) -> Draw | None:
        """Returns negatives drawn at random from the catalogue."""
        return Draw(*self.sampler())


class MixedSoftmax(_Sampled):
    """Softmax over the items of the batch and items drawn from the catalogue."""

    def __init__(self, training: Training, counts: np.ndarray) -> None:
        super().__init__(training, counts)
        self._shares = tf.constant(counts / counts.sum(), tf.float32)  # [item_count]
        self._expected = tf.constant(training.negatives * self._probabilities, tf.float32)  # [item_count]

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns `losses.in_batch_softmax` of the step, a scalar.

        The scores are corrected by the expected count of each item in batch and draw together.
        """
        batch_size = tf.cast(tf.size(pairs.rows), tf.float32)
        log_count = tf.math.log(tf.exp(draw.log_count) + batch_size * tf.gather(self._shares, draw.rows))  # [c]
        log_q = tf.math.log(batch_size * tf.exp(pairs.log_q) + tf.gather(self._expected, pairs.rows))  # [m]
        extra = Candidates(negatives, draw.rows, log_count)
        return losses.in_batch_softmax(queries, positives, pairs.rows, log_q, pairs.relevance, temperature, extra=extra)


class SampledSoftmax(_Sampled):
    """Softmax of each positive among drawn and mined hard negatives, optionally with a share of binary cross-entropy.

    `training.bce_weight` is the share of the binary cross-entropy, which uses the same query-item pairs and negatives.
    """

    def __init__(self, training: Training, counts: np.ndarray) -> None:
        super().__init__(training, counts, bias=training.bce_weight > 0.0)
        self._training = training

    def draw(self, batch: Mapping[str, Any]) -> Draw | None:
        """Returns the drawn negatives, followed by the hard negatives of the batch."""
        rows, log_count = self.sampler()
        if not self._training.hard_negatives:
            return Draw(rows, log_count)
        hard = batch.get("hard", batch["item"][:0])  # absent before the first mining
        return Draw(
            tf.concat([rows, hard], 0),
            tf.concat([log_count, tf.zeros_like(hard, tf.float32)], 0),
            tf.concat([tf.zeros_like(rows, tf.bool), tf.ones_like(hard, tf.bool)], 0),
        )

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns the weighted mean of `losses.sampled_softmax` and `losses.binary_cross_entropy`, a scalar."""
        share = self._training.bce_weight
        candidates = Candidates(
            negatives, draw.rows, draw.log_count, draw.is_hard, self._training.hard_negative_ceiling
        )
        softmax = losses.sampled_softmax(queries, positives, pairs.rows, candidates, pairs.relevance, temperature)
        if not share:
            return softmax
        binary = losses.binary_cross_entropy(
            queries,
            positives,
            pairs.rows,
            candidates,
            pairs.weights,
            temperature,
            labels=pairs.labels,
            bias=self.bias,
        )
        return (1.0 - share) * softmax + share * binary


class BinaryCrossEntropy(_Sampled):
    """Binary cross-entropy of each query-item pair and its drawn negatives, with a learned bias."""

    def __init__(self, training: Training, counts: np.ndarray) -> None:
        super().__init__(training, counts, bias=True)

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns `losses.binary_cross_entropy` of the step, a scalar."""
        return losses.binary_cross_entropy(
            queries,
            positives,
            pairs.rows,
            Candidates(negatives, draw.rows, draw.log_count),
            pairs.weights,
            temperature,
            labels=pairs.labels,
            bias=self.bias,
        )


class Gbce(_Sampled):
    """Generalised binary cross-entropy, which is calibrated for the number of drawn negatives."""

    def __init__(self, training: Training, counts: np.ndarray) -> None:
        super().__init__(training, counts, bias=True)
        self._calibration = training.calibration
        self._sampling_rate = min(1.0, training.negatives / max(1, len(counts) - 1))

    def loss(self, queries, positives, negatives, draw, pairs, temperature):
        """Returns `losses.gbce` of the step, a scalar."""
        return losses.gbce(
            queries,
            positives,
            pairs.rows,
            Candidates(negatives, draw.rows, draw.log_count),
            pairs.relevance,
            temperature,
            sampling_rate=self._sampling_rate,
            calibration=self._calibration,
            bias=self.bias,
        )


_OBJECTIVES: Mapping[str, Callable[[Training, np.ndarray, int], Objective]] = {
    "in_batch_softmax": lambda training, counts, dim: InBatchSoftmax(
        counts, dim, queue=training.queue, streaming=training.log_q == "streaming"
    ),
    "mixed_softmax": lambda training, counts, dim: MixedSoftmax(training, counts),
    "sampled_softmax": lambda training, counts, dim: SampledSoftmax(training, counts),
    "full_softmax": lambda training, counts, dim: FullSoftmax(),
    "gbce": lambda training, counts, dim: Gbce(training, counts),
    "bce": lambda training, counts, dim: BinaryCrossEntropy(training, counts),
}


def build(training: Training, counts: np.ndarray, dim: int) -> Objective:
    """Returns the objective that `training.loss` names.

    Args:
        training: Training keys of a recipe.
        counts: [item_count] int64, training events of each item.
        dim: Dimension of the item vectors.
    """
    return _OBJECTIVES[training.loss](training, counts, dim)
