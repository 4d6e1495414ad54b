"""Losses: plain functions, shapes first, each with its paper."""

from __future__ import annotations

import tensorflow as tf

MASKED = -1e9
"""A logit that no softmax sees."""


def in_batch_softmax(
    queries: tf.Tensor,
    items: tf.Tensor,
    item_rows: tf.Tensor,
    log_q: tf.Tensor,
    weights: tf.Tensor,
    temperature: tf.Tensor | float,
) -> tf.Tensor:
    """Returns the weighted mean of the sampled-softmax loss with the other items of the batch as negatives.

    ``logits[i, j] = queries[i] · items[j] / temperature - log_q[j]``; the loss of row i is the cross-entropy of row i
    against column i. Subtracting log q undoes that a batch holds popular items more often (Yi et al. 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", eq. 3).

    Args:
        queries: [batch, dim] float32, unit length.
        items: [batch, dim] float32, unit length; row i is the positive of query i.
        item_rows: [batch] int32, which item it is: the same item elsewhere in the batch is no negative (an accidental
            hit) and is masked.
        log_q: [batch] float32, log of the chance that a row of a batch is this item.
        weights: [batch] float32, above 0.
        temperature: scalar above 0.
    """
    logits = tf.matmul(queries, items, transpose_b=True) / temperature - log_q[None, :]  # [batch, batch]
    same = tf.equal(item_rows[:, None], item_rows[None, :])
    accidental = tf.logical_and(same, tf.logical_not(tf.eye(tf.shape(same)[0], dtype=tf.bool)))
    logits = tf.where(accidental, MASKED, logits)
    losses = tf.reduce_logsumexp(logits, axis=1) - tf.linalg.diag_part(logits)  # [batch]
    return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
