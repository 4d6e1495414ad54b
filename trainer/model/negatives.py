"""Sources of negatives (random draws, earlier batches, hard negatives), and an estimator of item frequencies.

Sampler, queue and frequency estimator are layers with their state in variables, so that checkpoints of a model include
the state and a TensorFlow graph can run them.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.model.losses import Candidates

_PRIME = 2**31 - 1
_BLOCK_SCORES = 2**23
"""Number of scores that `mine_hard_negatives` holds at once: 32 MiB."""


class FrequencyEstimator(keras.layers.Layer):
    """Estimates the frequency of each item from the stream of batches.

    Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", algorithms 2 and 3:
    array A holds the time when an item occurred last, array B the mean interval between its occurrences, and the
    probability of the item is ``1 / B``. Each occurrence updates ``B = (1 - rate) B + rate (now - A)``. There are two
    differences to the paper:

    - Time counts rows instead of batches, so that an item that occurs several times in each batch is distinguished from
      one that occurs once, and batches may differ in size. k occurrences in a batch count as k intervals of
      ``(now - A) / k``.
    - The first ``1 / rate`` intervals of an item have equal weights; array C counts them. B then needs no initial
      value, which would dominate the estimate of rare items.

    The array index of an item is ``row % buckets``, so that with at least as many buckets as items no two items share
    an index. With several hashes, the longest interval is used, as a shared index can only shorten intervals.

    Args:
        buckets: Length of the arrays, at least 1.
        learning_rate: Rate of the updates, above 0, at most 1; high values follow trends, low values are exact.
        hashes: Number of sets of arrays, each with its own hash of the row, at least 1.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(self, buckets: int, *, learning_rate: float = 0.05, hashes: int = 1) -> None:
        super().__init__(dtype="float32", autocast=False)
        if buckets < 1 or hashes < 1:
            raise ValueError(f"{buckets} buckets and {hashes} hashes cannot hold a frequency; give at least 1 of each")
        if not 0.0 < learning_rate <= 1.0:
            raise ValueError(f"the learning rate is {learning_rate}; give one above 0 and at most 1")
        self.buckets, self.learning_rate, self.hashes = buckets, learning_rate, hashes
        self.now = _state(self, "now", (), "int64")
        self.last = _state(self, "last", (hashes * buckets,), "int64")  # A
        self.interval = _state(self, "interval", (hashes * buckets,), "float32")  # B
        self.visits = _state(self, "visits", (hashes * buckets,), "float32")  # C
        # The same in every process, so that items keep their slots in a resumed training.
        self._multipliers = np.random.default_rng(2019).integers(
            1, _PRIME, (hashes - 1, 2)
        )  # of the hashes after the first
        self.built = True

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Updates the estimates with a batch and returns the estimates for the items of the batch.

        Args:
            rows: [m] int32 rows of the catalogue, m above 0.

        Returns:
            [m] float32, log of the estimated probability that a row of a batch is the item; at most 0.
        """
        now = self.now + tf.size(rows, out_type=tf.int64)
        slots, position, visits = tf.unique_with_counts(tf.reshape(self._slots(rows), [-1]))  # [u], [hashes * m], [u]
        visits = tf.cast(visits, tf.float32)
        passed = tf.cast(now - tf.gather(self.last, slots), tf.float32) / visits  # [u]
        total = tf.gather(self.visits, slots) + visits
        weight = tf.maximum(1.0 - (1.0 - self.learning_rate) ** visits, visits / total)
        before = tf.gather(self.interval, slots)
        interval = before + weight * (passed - before)  # [u]
        where = slots[:, None]
        self.now.assign(now)
        self.last.assign(tf.tensor_scatter_nd_update(self.last, where, tf.fill(tf.shape(slots), now)))
        self.interval.assign(tf.tensor_scatter_nd_update(self.interval, where, interval))
        self.visits.assign(tf.tensor_scatter_nd_update(self.visits, where, total))
        longest = tf.reduce_max(tf.reshape(tf.gather(interval, position), [self.hashes, -1]), axis=0)  # [m]
        return -tf.math.log(tf.maximum(longest, 1.0))

    def _slots(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the array indices of catalogue rows [m]: [hashes, m] int64, with a range of its own for each hash."""
        rows = tf.cast(rows, tf.int64)
        hashed = [rows]
        for multiplier, offset in self._multipliers.tolist():
            hashed.append(tf.math.floormod(rows * multiplier + offset, _PRIME))
        return tf.stack(
            [tf.math.floormod(slots, self.buckets) + index * self.buckets for index, slots in enumerate(hashed)]
        )


class NegativeSampler(keras.layers.Layer):
    """Draws items of the catalogue with replacement. The state of its random numbers is a variable.

    Args:
        probabilities: [item_count] float, probability of each item, 0 or above, with a sum of 1.
        count: Number of items in a draw, at least 1.
        seed: Random seed. Default: a seed drawn by Keras, reproducible with `keras.utils.set_random_seed`.

    Raises:
        ValueError: The probabilities are invalid, or the count is below 1.
    """

    def __init__(self, probabilities: np.ndarray, count: int, *, seed: int | None = None) -> None:
        super().__init__(dtype="float32", autocast=False)
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if probabilities.ndim != 1 or not np.all(probabilities >= 0.0) or not np.isclose(probabilities.sum(), 1.0):
            raise ValueError(
                f"probabilities of shape {probabilities.shape}, {probabilities.min(initial=np.inf)} or above, with a "
                f"sum of {probabilities.sum()}; give one for each item, 0 or above, with a sum of 1"
            )
        if count < 1:
            raise ValueError(f"{count} negatives to draw; give at least 1")
        self.count = count
        self.seed_generator = keras.random.SeedGenerator(seed)
        # float32 is too coarse to distinguish the rare items of a large catalogue.
        cumulative = np.cumsum(probabilities)
        self._cumulative = tf.constant(cumulative / cumulative[-1], tf.float64)  # [item_count]
        with np.errstate(divide="ignore"):
            self._log_counts = tf.constant(np.log(count * probabilities), tf.float32)  # [item_count]
        self.built = True

    def __call__(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the catalogue rows [count] int32 of a new draw, and the `log_count` [count] float32 of each.

        See `trainer.model.losses.Candidates` for `log_count`.
        """
        # The inherited method refuses a call without arguments.
        points = keras.random.uniform((self.count,), dtype="float64", seed=self.seed_generator)  # below 1
        rows = tf.searchsorted(self._cumulative, points, side="right")
        return rows, tf.gather(self._log_counts, rows)


class CrossBatchQueue(keras.layers.Layer):
    """A queue of the newest item vectors of earlier batches, which serve as negatives without being computed again.

    Wang et al. 2021, "Cross-Batch Negative Sampling for Training Two-Tower Recommenders"; Wang et al. 2020,
    "Cross-Batch Memory for Embedding Learning". The vectors are useful as long as embeddings change slowly. Call
    `candidates` before `push`; otherwise the items of a batch are among its own negatives.

    Args:
        capacity: Number of vectors in the queue, at least 1.
        dim: Dimension of the vectors.

    Raises:
        ValueError: The capacity is below 1.
    """

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__(dtype="float32", autocast=False)
        if capacity < 1:
            raise ValueError(f"a queue of capacity {capacity}; give at least 1")
        self.capacity, self.dim = capacity, dim
        self.vectors = _state(self, "vectors", (capacity, dim), "float32")
        self.rows = _state(self, "rows", (capacity,), "int32", start=-1)
        self.log_q = _state(self, "log_q", (capacity,), "float32")
        self.built = True

    def push(self, vectors: tf.Tensor, rows: tf.Tensor, log_q: tf.Tensor) -> None:
        """Appends a batch of any size and removes the oldest vectors. No gradients flow through the queue.

        Args:
            vectors: [m, dim] floats, item vectors of the batch.
            rows: [m] int32, catalogue rows of the items.
            log_q: [m] floats, log of the sampling probability of each item, which `candidates` returns as
                `Candidates.log_count`.
        """
        for held, new in ((self.vectors, vectors), (self.rows, rows), (self.log_q, log_q)):
            joined = tf.concat([tf.convert_to_tensor(held), tf.cast(new, held.dtype)], axis=0)[-self.capacity :]
            held.assign(tf.ensure_shape(joined, held.shape))

    def candidates(self) -> Candidates:
        """Returns all `capacity` entries of the queue as candidates, oldest first; unused entries have row -1."""
        return Candidates(*(tf.convert_to_tensor(held) for held in (self.vectors, self.rows, self.log_q)))


def _state(layer: keras.layers.Layer, name: str, shape: tuple[int, ...], dtype: str, start: int = 0) -> keras.Variable:
    """Adds a variable to the layer that is neither trained nor cast by mixed precision, and returns it.

    Args:
        layer: Layer that owns the variable.
        name: Name of the variable.
        shape: Shape of the variable.
        dtype: Dtype of the variable.
        start: Initial value of all elements.
    """
    return layer.add_weight(
        shape=shape,
        initializer=keras.initializers.Constant(start),
        dtype=dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def mine_hard_negatives(
    queries: np.ndarray, vectors: np.ndarray, known: Sequence[np.ndarray], count: int, skip: int
) -> np.ndarray:
    """Returns hard negatives of each query: its nearest unknown items, without the very nearest.

    The very nearest unknown items are likely to be relevant, so they are skipped (Zhang et al. 2013,
    "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling"; Huang et al. 2020, "Embedding-based
    Retrieval in Facebook Search").

    Args:
        queries: [n, dim] float32, query embeddings.
        vectors: [item_count, dim] float32, embeddings of the whole catalogue.
        known: Catalogue rows of the known items of each query, n integer arrays in any order, duplicates allowed.
        count: Number of items for each query, at least 1.
        skip: Number of nearest unknown items to skip, 0 or above.

    Returns:
        [n, count] int32 rows of the catalogue, nearest first; -1 where there are no more items.

    Raises:
        ValueError: Shapes do not match, or a number is out of range.
    """
    fit = queries.ndim == 2 and vectors.ndim == 2 and queries.shape[1] == vectors.shape[1]
    if not fit or len(known) != len(queries):
        raise ValueError(
            f"queries {queries.shape}, vectors {vectors.shape} and {len(known)} sets of known items do not fit; "
            "give [n, dim], [item_count, dim] and n"
        )
    if count < 1 or skip < 0:
        raise ValueError(f"{count} negatives after {skip} skipped; give at least 1 after at least 0")
    negatives = np.full((len(queries), count), -1, dtype=np.int32)
    item_count = len(vectors)
    kept = min(skip + count, item_count)
    if kept <= skip:
        return negatives
    block = max(1, _BLOCK_SCORES // item_count)
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ vectors.T  # [b, item_count]
        theirs = known[start : start + block]
        owners = np.repeat(np.arange(len(theirs)), [len(rows) for rows in theirs])
        scores[owners, np.concatenate(theirs).astype(np.int64)] = -np.inf
        # Only the kept items are sorted: a full sort of the catalogue is many times slower.
        best = np.argpartition(scores, item_count - kept, axis=1)[:, item_count - kept :]  # [b, kept]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, skip:]  # [b, kept - skip]
        rows = np.take_along_axis(best, order, axis=1)
        unknown = np.isfinite(np.take_along_axis(values, order, axis=1))
        negatives[start : start + block, : kept - skip] = np.where(unknown, rows, -1)
    return negatives
