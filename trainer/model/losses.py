"""Losses: plain functions, shapes first, each with its paper.

All compute in float32, whatever they are given, and return a scalar: the mean over the rows, by their weights. A
negative that is the positive of its row (an accidental hit) is invisible to that row: it adds nothing to the loss, and
no gradient reaches it. Rows of weight 0 count for nothing, and where all are of weight 0 the loss is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

MASKED = -1e9
"""A logit that no softmax sees."""


class Candidates(NamedTuple):
    """Items that serve as negatives of every row of a batch.

    Attributes:
        vectors: [c, dim] float32.
        rows: [c] int32 rows of the catalogue; -1 is an empty slot, which no row sees.
        log_count: [c] float32, log of how many times such a sample is expected to hold the item: log(n q) for n draws
            with chance q each.
        guarded: [c] bool: a row does not see such an item where its score s is near that of the positive, p:
            ``s > p - (1 - ceiling) |p|``, for it may well be an answer too (Moreira et al. 2024, "NV-Retriever:
            Improving Text Embedding Models with Effective Hard-Negative Mining", TopK-PercPos; there by the scores of a
            teacher, here by those of the step). Default: none is guarded.
        ceiling: of the guarded, above 0, at most 1.
    """

    vectors: tf.Tensor
    rows: tf.Tensor
    log_count: tf.Tensor
    guarded: tf.Tensor | None = None
    ceiling: float = 1.0


def in_batch_softmax(
    queries: tf.Tensor,
    items: tf.Tensor,
    item_rows: tf.Tensor,
    log_q: tf.Tensor,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
    *,
    extra: Candidates | None = None,
) -> tf.Tensor:
    """Returns the weighted mean of the sampled-softmax loss with the other items of the batch as negatives.

    ``logits[i, j] = queries[i] · items[j] / temperature - log_q[j]``; the loss of row i is the cross-entropy of row i
    against column i. Subtracting log q undoes that a batch holds popular items more often (Yi et al. 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", eq. 3).

    `extra` adds columns: items drawn from the catalogue (Yang et al. 2020, "Mixed Negative Sampling for Learning
    Two-tower Neural Networks in Recommendations") or those of earlier batches (Wang et al. 2021, "Cross-Batch Negative
    Sampling for Training Two-Tower Recommenders"). The positive is corrected like any column, so a constant added to
    all of `log_q` and `extra.log_count` changes nothing; what counts is that both are on one scale.

    Args:
        queries: [batch, dim] float32, unit length.
        items: [batch, dim] float32, unit length; row i is the positive of query i.
        item_rows: [batch] int32, which item it is: the same item elsewhere in the batch is no negative (an accidental
            hit) and is masked.
        log_q: [batch] float32, log of the chance that a row of a batch is this item.
        weights: [batch] float32, above 0.
        temperature: scalar above 0.
        extra: further negatives of every row. Default: none.
    """
    temperature = tf.cast(temperature, tf.float32)
    logits = _dots(queries, items) / temperature - tf.cast(log_q, tf.float32)[None, :]  # [batch, batch]
    same = tf.equal(item_rows[:, None], item_rows[None, :])
    accidental = tf.logical_and(same, tf.logical_not(tf.eye(tf.shape(same)[0], dtype=tf.bool)))
    logits = tf.where(accidental, MASKED, logits)
    positive = tf.linalg.diag_part(logits)  # [batch]
    if extra is not None:
        corrected = _corrected_scores(queries, items, item_rows, extra, temperature)
        logits = tf.concat([logits, corrected], axis=1)  # [batch, batch + c]
    return _weighted_mean(tf.reduce_logsumexp(logits, axis=1) - positive, weights)


def sampled_softmax(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
) -> tf.Tensor:
    """Returns the weighted mean of the softmax loss of each pair among negatives drawn from the catalogue.

    With ``s = query · item / temperature``, the loss of row i is
    ``log(exp(s_i) + sum_j exp(s_ij - log_count[j])) - s_i``: the sum estimates that of the whole catalogue without the
    positive (Bengio & Senécal 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model"). The positive stands there once whatever is drawn, so it is left uncorrected.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the positive of query i.
        positive_rows: [m] int32 rows of the catalogue.
        negatives: shared by all rows.
        weights: [m] float32, above 0.
        temperature: scalar above 0.
    """
    corrected = _corrected_scores(queries, positives, positive_rows, negatives, temperature)
    positive = _pair_scores(queries, positives, temperature)  # [m]
    # log(e^p + e^n) - p = log(1 + e^(n - p)).
    return _weighted_mean(tf.nn.softplus(tf.reduce_logsumexp(corrected, axis=1) - positive), weights)


def full_softmax(
    queries: tf.Tensor,
    items: tf.Tensor,
    positive_rows: tf.Tensor,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
) -> tf.Tensor:
    """Returns the weighted mean of the softmax loss of each pair among the whole catalogue.

    The loss of row i is ``log(sum_j exp(s_ij)) - s_i,positive`` with ``s_ij = queries[i] · items[j] / temperature``:
    the multinomial likelihood of the item that was taken (Covington et al. 2016, "Deep Neural Networks for YouTube
    Recommendations", section 3.1), nothing sampled and so nothing corrected.

    Args:
        queries: [m, dim] float32, unit length.
        items: [item_count, dim] float32, unit length: all of the catalogue.
        positive_rows: [m] int32, 0 to item_count - 1.
        weights: [m] float32, above 0.
        temperature: scalar above 0.
    """
    logits = _dots(queries, items) / tf.cast(temperature, tf.float32)  # [m, item_count]
    return _weighted_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(positive_rows, logits), weights)


def gbce(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
    *,
    sampling_rate: float,
    calibration: float,
    bias: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Returns the weighted mean of the generalised binary cross-entropy, which sampling makes less overconfident.

    With ``s = query · item / temperature`` and k negatives that the row sees, the loss of row i is
    ``-(beta log sigmoid(s_i) + sum_j log(1 - sigmoid(s_ij))) / (k + 1)`` with
    ``beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a)``, a the sampling rate and t the calibration (Petrov & Macdonald
    2023, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling", section 5).
    The paper draws its negatives uniformly, for each row apart; here all rows share them. `Candidates.log_count` is
    not used.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the positive of query i.
        positive_rows: [m] int32 rows of the catalogue.
        negatives: shared by all rows.
        weights: [m] float32, above 0.
        temperature: scalar above 0.
        sampling_rate: negatives of a row by the items that could be one, above 0, at most 1.
        calibration: t, 0 to 1: 0 is binary cross-entropy, 1 undoes the sampling in full.
        bias: added to every s. Vectors of unit length cannot say that most pairs are no match; a learned bias can, and
            it changes no ranking (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2).

    Raises:
        ValueError: a share is outside its range.
    """
    if not 0.0 < sampling_rate <= 1.0:
        raise ValueError(f"the sampling rate is {sampling_rate}; give one above 0 and at most 1")
    if not 0.0 <= calibration <= 1.0:
        raise ValueError(f"the calibration is {calibration}; give one of 0 to 1")
    beta = 1.0 - calibration * (1.0 - sampling_rate)
    # log sigmoid(s)^beta = -beta softplus(-s): never the power itself, which float32 rounds to 1.
    positive = beta * tf.nn.softplus(-_pair_scores(queries, positives, temperature) - bias)  # [m]
    return _binary_mean(positive, queries, positives, positive_rows, negatives, weights, temperature, bias)


def binary_cross_entropy(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
    *,
    labels: tf.Tensor | None = None,
    bias: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Returns the weighted mean of the binary cross-entropy of each pair and its negatives.

    With ``s = query · item / temperature``, y the label and k negatives that the row sees, the loss of row i is
    ``-(y log sigmoid(s_i) + (1 - y) log(1 - sigmoid(s_i)) + sum_j log(1 - sigmoid(s_ij))) / (k + 1)`` (He et al. 2017,
    "Neural Collaborative Filtering", eq. 7). `Candidates.log_count` is not used.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the item that query i met.
        positive_rows: [m] int32 rows of the catalogue.
        negatives: shared by all rows, with label 0.
        weights: [m] float32, above 0.
        temperature: scalar above 0.
        labels: [m] float32, 0 to 1: how much each query liked its item. Default: 1 for all.
        bias: as of `gbce`.
    """
    score = _pair_scores(queries, positives, temperature) + bias  # [m]
    label = tf.ones_like(score) if labels is None else tf.cast(labels, tf.float32)
    positive = label * tf.nn.softplus(-score) + (1.0 - label) * tf.nn.softplus(score)
    return _binary_mean(positive, queries, positives, positive_rows, negatives, weights, temperature, bias)


def _binary_mean(
    positive: tf.Tensor,
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
    bias: tf.Tensor | float,
) -> tf.Tensor:
    """Returns the mean over rows of the mean over the pair, whose loss is `positive` [m], and its negatives."""
    scores, seen = _negative_scores(queries, positives, positive_rows, negatives, temperature)  # [m, c]
    visible = tf.cast(seen, tf.float32)
    negative = tf.reduce_sum(tf.nn.softplus(scores + bias) * visible, axis=1)  # [m]
    return _weighted_mean((positive + negative) / (1.0 + tf.reduce_sum(visible, axis=1)), weights)


def _negative_scores(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    temperature: tf.Tensor | float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns [m, c] float32 query · negative / temperature, and [m, c] bool: whether the row sees the negative."""
    scores = _dots(queries, negatives.vectors) / tf.cast(temperature, tf.float32)
    hidden = tf.logical_or(tf.equal(positive_rows[:, None], negatives.rows[None, :]), (negatives.rows < 0)[None, :])
    if negatives.guarded is not None:
        positive = _pair_scores(queries, positives, temperature)[:, None]  # [m, 1]
        near = scores > positive - (1.0 - negatives.ceiling) * tf.abs(positive)
        hidden = tf.logical_or(hidden, tf.logical_and(negatives.guarded[None, :], near))
    return scores, tf.logical_not(hidden)


def _pair_scores(queries: tf.Tensor, positives: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """Returns [m] float32: query · positive / temperature of each row."""
    queries, positives = tf.cast(queries, tf.float32), tf.cast(positives, tf.float32)
    return tf.reduce_sum(queries * positives, axis=1) / tf.cast(temperature, tf.float32)


def _dots(queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Returns [m, n] float32."""
    return tf.matmul(tf.cast(queries, tf.float32), tf.cast(items, tf.float32), transpose_b=True)


def _corrected_scores(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    temperature: tf.Tensor | float,
) -> tf.Tensor:
    """Returns [m, c] float32: scores less log_count, `MASKED` where the row does not see the negative."""
    scores, seen = _negative_scores(queries, positives, positive_rows, negatives, temperature)  # [m, c]
    return tf.where(seen, scores - tf.cast(negatives.log_count, tf.float32)[None, :], MASKED)


def _weighted_mean(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(weights, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
