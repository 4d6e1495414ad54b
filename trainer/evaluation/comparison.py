"""A new model beside the live bundle, on the same held-out data and for the same queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from retrieval.bundle.errors import BundleNotFound
from retrieval.index.recall import exact_top_k
from retrieval.inference.deployed_bundle import DeployedBundle
from retrieval.store.store import BundleStore
from trainer.data.splits import Data, sample_users
from trainer.evaluation.deployed_bundle import NotComparable, embed_users, open_bundle
from trainer.evaluation.evaluate import TEST_USERS, reads_requests
from trainer.evaluation.metrics import HeldOut, evaluate
from trainer.recipe.recipe import Recipe

_TOP = 100
_ABSENT = -2.0
"""Score of an item that the live bundle lacks: below any cosine."""


@dataclass(frozen=True)
class Comparison:
    """What was measured. Answers are exact and of the whole catalogue, what the user knows included.

    Attributes:
        query_count: held-out queries that the answers are of.
        never_retrieved: share of the new catalogue that stands in no top 100.
        mean_log_popularity: mean of log(1 + events before the test) of the items in the top 10.
        live: the live bundle; empty where none is.
        not_comparable: why it could not be compared; empty where it could.
        live_metrics: of the live bundle on the same test part. Items that it lacks stand last. It may have been
            trained on a part of that data, where the split has changed since.
        live_mean_log_popularity: of the live bundle's answers to the same queries.
        overlap_at_10: mean share of its top 10 that the new top 10 has too.
        overlap_at_100: likewise.
    """

    query_count: int
    never_retrieved: float
    mean_log_popularity: float
    live: str = ""
    not_comparable: str = ""
    live_metrics: Mapping[str, float] = field(default_factory=dict)
    live_mean_log_popularity: float | None = None
    overlap_at_10: float | None = None
    overlap_at_100: float | None = None


def compare(
    store: BundleStore,
    recipe: Recipe,
    data: Data,
    *,
    users: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
) -> Comparison:
    """Returns what is known of a new model beside the live bundle of a store, if there is one.

    Args:
        store: whose live bundle to ask.
        recipe: of the new model.
        data: Data set and its split; both models are evaluated on the test part.
        users: [n] rows, held out, whose answers are compared.
        queries: [n, dim] float32, theirs, by the new model.
        vectors: [item_count, dim] float32, of the new model.
    """
    dataset, parts = data
    item_count = len(dataset.items.ids)
    log_popularity = np.log1p(parts.known.item_counts(item_count))
    top = exact_top_k(queries, vectors, _TOP)  # [n, k]
    new = {
        "query_count": len(queries),
        "never_retrieved": 1 - len(np.unique(top)) / item_count,
        "mean_log_popularity": float(log_popularity[top[:, :10]].mean()),
    }
    pointer = store.live()
    if pointer is None:
        return Comparison(**new, not_comparable="no bundle is live")
    new["live"] = pointer.version
    try:
        live = open_bundle(store, pointer.version, recipe, dataset)
    except (NotComparable, BundleNotFound) as error:
        return Comparison(**new, not_comparable=str(error))
    rows = live.rows(dataset.items.rows)  # [live item_count]
    live_queries = embed_users(live, recipe, dataset, parts.known, users, parts.test)
    live_top = rows[exact_top_k(live_queries, live.vectors, _TOP)]  # [n, k]
    return Comparison(
        **new,
        live_metrics=_evaluate(live, rows, recipe, data),
        live_mean_log_popularity=float(np.where(live_top < 0, 0.0, log_popularity[live_top])[:, :10].mean()),
        overlap_at_10=_overlap(live_top[:, :10], top[:, :10]),
        overlap_at_100=_overlap(live_top, top),
    )


def _evaluate(live: DeployedBundle, rows: np.ndarray, recipe: Recipe, data: Data) -> dict[str, float]:
    dataset, parts = data
    item_count = len(dataset.items.ids)
    shared = rows >= 0
    vectors = live.vectors[shared]

    def score(users: np.ndarray) -> np.ndarray:
        scores = np.full((len(users), item_count), _ABSENT, dtype=np.float32)
        queries = embed_users(live, recipe, dataset, parts.known, users, parts.test)
        scores[:, rows[shared]] = queries @ vectors.T  # [n, item_count]
        return scores

    counts = parts.known.item_counts(item_count)
    known, asked = sample_users(parts.known, parts.test, TEST_USERS)
    new_users = reads_requests(recipe)
    held_out = HeldOut.of(
        known.pairs, asked.pairs, item_count, repeats=recipe.split.repeats, item_counts=counts, new_users=new_users
    )
    return evaluate(held_out, score).means


def _overlap(old: np.ndarray, new: np.ndarray) -> float:
    """Returns the mean share of each row of `old` [n, k] that the row of `new` has too."""
    found = [len(set(a) & set(b)) / len(a) for a, b in zip(old.tolist(), new.tolist(), strict=True)]
    return float(np.mean(found))
