"""Where negatives come from: frequencies to correct them by, draws from the catalogue, earlier batches, near misses.

The first three are layers: their state is variables, so that a checkpoint of a model that has them holds it, and they
run inside a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.model.losses import Candidates

_PRIME = 2**31 - 1
_BLOCK_SCORES = 2**23
"""Scores that `mine_hard_negatives` holds at once: 32 MiB of them."""


class FrequencyEstimator(keras.layers.Layer):
    """How often each item comes by in a stream of batches, without a count of the stream.

    Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", algorithms 2 and 3:
    array A holds when an item came last, array B the mean interval between its visits, and the chance of the item is
    ``1 / B``. At each visit ``B = (1 - rate) B + rate (now - A)``. Two things are done to the same end in another way:

    - Time counts rows, not batches, so that an item that stands in each batch several times is not taken for one that
      stands there once, and batches may differ in size. k visits in a batch count as k intervals of ``(now - A) / k``.
    - The first ``1 / rate`` intervals of an item are averaged evenly, with array C as their number. B then needs no
      start value, which a rare item would hardly ever leave.

    An item in slot ``row % buckets`` shares it with no other where there are as many buckets as items. With more than
    one hash, the longest of the intervals counts, as sharing a slot can only shorten one.

    Args:
        buckets: length of the arrays.
        learning_rate: above 0, at most 1; high follows trends, low is exact.
        hashes: how many pairs of arrays.

    Raises:
        ValueError: an argument is outside its range.
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
        # The same in every process, so that a resumed training finds its items in the slots that it left them in.
        self._multipliers = np.random.default_rng(2019).integers(1, _PRIME, (hashes - 1, 2))  # of the further hashes
        self.built = True

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Takes in a batch and returns how frequent its items are, this batch included.

        Args:
            rows: [m] int32 rows of the catalogue, m above 0.

        Returns:
            [m] float32, log of the chance that a row of a batch is the item; at most 0.
        """
        now = self.now + tf.size(rows, out_type=tf.int64)
        slots, place, visits = tf.unique_with_counts(tf.reshape(self._slots(rows), [-1]))  # [u], [hashes * m], [u]
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
        longest = tf.reduce_max(tf.reshape(tf.gather(interval, place), [self.hashes, -1]), axis=0)  # [m]
        return -tf.math.log(tf.maximum(longest, 1.0))

    def _slots(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns [hashes, m] int64: where each hash has the rows; hash h has them in its own part of the arrays."""
        rows = tf.cast(rows, tf.int64)
        hashed = [rows]
        for multiplier, offset in self._multipliers.tolist():
            hashed.append(tf.math.floormod(rows * multiplier + offset, _PRIME))
        return tf.stack([tf.math.floormod(slots, self.buckets) + at * self.buckets for at, slots in enumerate(hashed)])


class NegativeSampler(keras.layers.Layer):
    """Draws items of the catalogue, with replacement; its seed is a variable.

    Args:
        probabilities: [item_count], of a draw to be the item: 0 or above, 1 in all. An item of chance 0 is never drawn.
        count: how many are drawn at a time.
        seed: of the draws. Default: as `keras.utils.set_random_seed` says.

    Raises:
        ValueError: the probabilities are none, or the count is below 1.
    """

    def __init__(self, probabilities: np.ndarray, count: int, *, seed: int | None = None) -> None:
        super().__init__(dtype="float32", autocast=False)
        chances = np.asarray(probabilities, dtype=np.float64)
        if chances.ndim != 1 or not np.all(chances >= 0.0) or not np.isclose(chances.sum(), 1.0):
            raise ValueError(
                f"probabilities of shape {chances.shape}, {chances.min(initial=np.inf)} or above, "
                f"{chances.sum()} in all; give one for each item, 0 or above, 1 in all"
            )
        if count < 1:
            raise ValueError(f"{count} negatives to draw; give at least 1")
        self.count = count
        self.seed_generator = keras.random.SeedGenerator(seed)
        # float32 has too few steps between 0 and 1 to tell the rare items of a large catalogue apart.
        cumulative = np.cumsum(chances)
        self._cumulative = tf.constant(cumulative / cumulative[-1], tf.float64)  # [item_count]
        with np.errstate(divide="ignore"):
            self._log_counts = tf.constant(np.log(count * chances), tf.float32)  # [item_count]
        self.built = True

    def __call__(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows [count] int32 and their log_count [count] float32, see `trainer.model.losses.Candidates`."""
        # The inherited one refuses a call without arguments.
        points = keras.random.uniform((self.count,), dtype="float64", seed=self.seed_generator)  # below 1
        rows = tf.searchsorted(self._cumulative, points, side="right")
        return rows, tf.gather(self._log_counts, rows)


class CrossBatchQueue(keras.layers.Layer):
    """The newest item vectors of earlier batches, as they were then: negatives that cost no tower.

    Wang et al. 2021, "Cross-Batch Negative Sampling for Training Two-Tower Recommenders"; Wang et al. 2020,
    "Cross-Batch Memory for Embedding Learning". They hold as far as embeddings drift slowly. Take `candidates` before
    the `push` of the same batch, or the batch meets itself.

    Args:
        capacity: how many vectors it holds, at least 1.
        dim: their length.

    Raises:
        ValueError: the capacity is below 1.
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
        """Takes in a batch, of any size; the oldest leave. No gradient flows back from what it holds.

        Args:
            vectors: [m, dim] floats.
            rows: [m] int32 rows of the catalogue.
            log_q: [m] floats, given back as `Candidates.log_count`.
        """
        for held, new in ((self.vectors, vectors), (self.rows, rows), (self.log_q, log_q)):
            joined = tf.concat([tf.convert_to_tensor(held), tf.cast(new, held.dtype)], axis=0)[-self.capacity :]
            held.assign(tf.ensure_shape(joined, held.shape))

    def candidates(self) -> Candidates:
        """Returns all slots, oldest first; those not yet filled have row -1."""
        return Candidates(*(tf.convert_to_tensor(held) for held in (self.vectors, self.rows, self.log_q)))


def _state(layer: keras.layers.Layer, name: str, shape: tuple[int, ...], dtype: str, start: int = 0) -> keras.Variable:
    """Returns a variable of the layer that no optimizer moves, and that mixed precision leaves as it is."""
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
    """Returns the items nearest to each query that its user does not know, without the very nearest.

    The very nearest unknown items are likely to be what the user takes next, and so no negatives (Zhang et al. 2013,
    "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling"; Huang et al. 2020, "Embedding-based
    Retrieval in Facebook Search", pass over the nearest likewise).

    Args:
        queries: [n, dim] float32.
        vectors: [item_count, dim] float32: all of the catalogue.
        known: of each query, rows of the catalogue, in any order, repeated or not.
        count: how many for each query, at least 1.
        skip: how many of the nearest unknown items are passed over, 0 or above.

    Returns:
        [n, count] int32 rows of the catalogue, nearest first; -1 where there are no more.

    Raises:
        ValueError: a shape or number does not fit.
    """
    fit = queries.ndim == 2 and vectors.ndim == 2 and queries.shape[1] == vectors.shape[1]
    if not fit or len(known) != len(queries):
        raise ValueError(
            f"queries {queries.shape}, vectors {vectors.shape} and {len(known)} sets of known items do not fit; "
            "give [n, dim], [item_count, dim] and n"
        )
    if count < 1 or skip < 0:
        raise ValueError(f"{count} negatives after {skip} skipped; give at least 1 after at least 0")
    found = np.full((len(queries), count), -1, dtype=np.int32)
    item_count = len(vectors)
    kept = min(skip + count, item_count)
    if kept <= skip:
        return found
    block = max(1, _BLOCK_SCORES // item_count)
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ vectors.T  # [b, item_count]
        theirs = known[start : start + block]
        owners = np.repeat(np.arange(len(theirs)), [len(rows) for rows in theirs])
        scores[owners, np.concatenate(theirs).astype(np.int64)] = -np.inf
        # Best first only among the few that are kept: a full sort of the catalogue is many times slower.
        best = np.argpartition(scores, item_count - kept, axis=1)[:, item_count - kept :]  # [b, kept]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, skip:]  # [b, kept - skip]
        rows = np.take_along_axis(best, order, axis=1)
        unknown = np.isfinite(np.take_along_axis(values, order, axis=1))
        found[start : start + block, : kept - skip] = np.where(unknown, rows, -1)
    return found
