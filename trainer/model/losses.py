"""Loss functions, each with the paper that it comes from.

All losses compute in float32 and return a scalar: the weighted mean over the rows. A negative that is the positive of a
row (an accidental hit) is masked for that row: it adds nothing to the loss and gets no gradient from it. Rows of weight
0 are ignored; if all weights are 0, the loss is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

MASKED = -1e9
"""Logit of a masked candidate, so low that its softmax is 0."""


class Candidates(NamedTuple):
    """Negatives that all rows of a batch share.

    Attributes:
        vectors: [c, dim] float32, embeddings of the negatives.
        rows: [c] int32, catalogue rows of the negatives; -1 is an empty entry, which is masked for all rows.
        log_count: [c] float32, log of the expected count of each item in the sample: log(n q) for n draws with
            probability q.
        is_hard: [c] bool, whether each item is a hard negative. A hard negative is masked for the rows where its score
            s is near the score p of the positive,
            ``s > p - (1 - ceiling) |p|``, as it may well be relevant (Moreira et al. 2024, "NV-Retriever: Improving
            Text Embedding Models with Effective Hard-Negative Mining", TopK-PercPos, who use the scores of a teacher
            instead of those of the step). Default: no negative is hard.
        ceiling: Largest ratio of the score of a hard negative to the score of the positive, above 0, at most 1.
    """

    vectors: tf.Tensor
    rows: tf.Tensor
    log_count: tf.Tensor
    is_hard: tf.Tensor | None = None
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
    """Returns the weighted mean of the softmax loss with the other items of the batch as negatives: a float32 scalar.

    ``logits[i, j] = queries[i] · items[j] / temperature - log_q[j]``; the loss of row i is the cross-entropy of row i
    against column i. Subtracting log q corrects for popular items being more often in a batch (Yi et al. 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", eq. 3).

    `extra` adds columns: items drawn from the catalogue (Yang et al. 2020, "Mixed Negative Sampling for Learning
    Two-tower Neural Networks in Recommendations") or items of earlier batches (Wang et al. 2021, "Cross-Batch Negative
    Sampling for Training Two-Tower Recommenders"). The positive is corrected like all columns, so that a constant added
    to both `log_q` and `extra.log_count` changes nothing; both have to be on the same scale.

    Args:
        queries: [batch, dim] float32, unit length.
        items: [batch, dim] float32, unit length; row i is the positive of query i.
        item_rows: [batch] int32, catalogue rows of `items`; another occurrence of the same item in the batch is an
            accidental hit, and masked.
        log_q: [batch] float32, log of the probability that a row of a batch is this item.
        weights: [batch] float32, 0 or above.
        temperature: Scalar above 0.
        extra: Further negatives of every row. Default: none.
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
    """Returns the weighted mean of the softmax loss of each positive among drawn negatives: a float32 scalar.

    With ``s = query · item / temperature``, the loss of row i is
    ``log(exp(s_i) + sum_j exp(s_ij - log_count[j])) - s_i``: the sum over the negatives estimates the sum over the
    whole catalogue without the positive (Bengio & Senécal 2008, "Adaptive Importance Sampling to Accelerate Training of
    a Neural Probabilistic Language Model"). The softmax always includes the positive exactly once, so its score is not
    corrected.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the positive of query i.
        positive_rows: [m] int32, catalogue rows of `positives`.
        negatives: Negatives that all rows share.
        weights: [m] float32, 0 or above.
        temperature: Scalar above 0.
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
    """Returns the weighted mean of the softmax loss of each positive among the whole catalogue: a float32 scalar.

    The loss of row i is ``log(sum_j exp(s_ij)) - s_i,positive`` with ``s_ij = queries[i] · items[j] / temperature``:
    the negative log-likelihood of the positive (Covington et al. 2016, "Deep Neural Networks for YouTube
    Recommendations", section 3.1), without sampling, so without correction.

    Args:
        queries: [m, dim] float32, unit length.
        items: [item_count, dim] float32, unit length: the whole catalogue.
        positive_rows: [m] int32, catalogue row of the positive of each query, 0 to item_count - 1.
        weights: [m] float32, 0 or above.
        temperature: Scalar above 0.
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
    """Returns the weighted mean of the generalised binary cross-entropy of each positive and its negatives: a scalar.

    It corrects the overconfidence that sampled negatives cause.

    With ``s = query · item / temperature`` and k negatives that are not masked, the loss of row i is
    ``-(beta log sigmoid(s_i) + sum_j log(1 - sigmoid(s_ij))) / (k + 1)`` with
    ``beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a)``, a the sampling rate and t the calibration (Petrov & Macdonald
    2023, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling", section 5).
    The paper draws the negatives uniformly for each row; here all rows share them. `Candidates.log_count` is not used.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the positive of query i.
        positive_rows: [m] int32, catalogue rows of `positives`.
        negatives: Negatives that all rows share.
        weights: [m] float32, 0 or above.
        temperature: Scalar above 0.
        sampling_rate: Ratio of the negatives of a row to the items that could be drawn (a), above 0, at most 1.
        calibration: Strength of the correction (t), 0 to 1: 0 is binary cross-entropy, 1 corrects completely.
        bias: Constant that is added to every s. Cosines cannot express that most pairs do not match; a learned bias
            can, and does not change the ranking (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training",
            section 3.2).

    Raises:
        ValueError: The sampling rate or the calibration is outside its range.
    """
    if not 0.0 < sampling_rate <= 1.0:
        raise ValueError(f"the sampling rate is {sampling_rate}; give one above 0 and at most 1")
    if not 0.0 <= calibration <= 1.0:
        raise ValueError(f"the calibration is {calibration}; give one of 0 to 1")
    beta = 1.0 - calibration * (1.0 - sampling_rate)
    # log sigmoid(s)^beta = -beta softplus(-s), as the power itself is rounded to 1 in float32.
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
    """Returns the weighted mean of the binary cross-entropy of each query-item pair and its negatives: a scalar.

    With ``s = query · item / temperature``, y the label and k negatives that are not masked, the loss of row i is
    ``-(y log sigmoid(s_i) + (1 - y) log(1 - sigmoid(s_i)) + sum_j log(1 - sigmoid(s_ij))) / (k + 1)`` (He et al. 2017,
    "Neural Collaborative Filtering", eq. 7). `Candidates.log_count` is not used.

    Args:
        queries: [m, dim] float32, unit length.
        positives: [m, dim] float32, unit length; row i is the item of query i.
        positive_rows: [m] int32, catalogue rows of `positives`.
        negatives: Negatives that all rows share, with label 0.
        weights: [m] float32, 0 or above.
        temperature: Scalar above 0.
        labels: [m] float32, relevance of each item to its query, 0 to 1. Default: 1.
        bias: Constant that is added to every s, see `gbce`.
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
    """Returns the weighted mean over rows of the mean loss of a query-item pair and its negatives: a scalar.

    `positive` [m] float32 is the loss of each query-item pair; the other arguments are those of `gbce`.
    """
    scores, mask = _negative_scores(queries, positives, positive_rows, negatives, temperature)  # [m, c]
    visible = tf.cast(mask, tf.float32)
    negative = tf.reduce_sum(tf.nn.softplus(scores + bias) * visible, axis=1)  # [m]
    return _weighted_mean((positive + negative) / (1.0 + tf.reduce_sum(visible, axis=1)), weights)


def _negative_scores(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    temperature: tf.Tensor | float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns query · negative / temperature, [m, c] float32, and whether each score counts, [m, c] bool.

    Accidental hits, empty entries and hard negatives near the positive do not count.
    """
    scores = _dots(queries, negatives.vectors) / tf.cast(temperature, tf.float32)
    masked = tf.logical_or(tf.equal(positive_rows[:, None], negatives.rows[None, :]), (negatives.rows < 0)[None, :])
    if negatives.is_hard is not None:
        positive = _pair_scores(queries, positives, temperature)[:, None]  # [m, 1]
        near = scores > positive - (1.0 - negatives.ceiling) * tf.abs(positive)
        masked = tf.logical_or(masked, tf.logical_and(negatives.is_hard[None, :], near))
    return scores, tf.logical_not(masked)


def _pair_scores(queries: tf.Tensor, positives: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """Returns query · positive / temperature of each row: [m] float32."""
    queries, positives = tf.cast(queries, tf.float32), tf.cast(positives, tf.float32)
    return tf.reduce_sum(queries * positives, axis=1) / tf.cast(temperature, tf.float32)


def _dots(queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Returns the dot products of queries [m, dim] and items [n, dim]: [m, n] float32."""
    return tf.matmul(tf.cast(queries, tf.float32), tf.cast(items, tf.float32), transpose_b=True)


def _corrected_scores(
    queries: tf.Tensor,
    positives: tf.Tensor,
    positive_rows: tf.Tensor,
    negatives: Candidates,
    temperature: tf.Tensor | float,
) -> tf.Tensor:
    """Returns the scores of the negatives minus `Candidates.log_count`: [m, c] float32, `MASKED` for masked ones."""
    scores, mask = _negative_scores(queries, positives, positive_rows, negatives, temperature)  # [m, c]
    return tf.where(mask, scores - tf.cast(negatives.log_count, tf.float32)[None, :], MASKED)


def _weighted_mean(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(weights, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
