"""Compares a new model with the live bundle of a store, on the same held-out events and queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.parts import paths_of, read_items
from retrieval.bundle.errors import BundleNotFound, BundleRefused
from retrieval.bundle.layout import ITEMS
from retrieval.index.recall import exact_top_k
from retrieval.inference.deployed_bundle import DeployedBundle
from retrieval.store.store import BundleStore
from trainer.data.dataset import Dataset
from trainer.data.splits import Data, sample_users
from trainer.evaluation.deployed_queries import NotComparable, embed_users, open_bundle
from trainer.evaluation.evaluate import TEST_USERS
from trainer.evaluation.metrics import HeldOut, evaluate
from trainer.evaluation.task import reads_requests
from trainer.recipe.recipe import Recipe

_TOP = 100
_ABSENT = -2.0
"""Score of an item that is not in the live bundle: below any cosine."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing a new model with the live bundle.

    Rankings are exact and over the whole catalogue, including known items.

    Attributes:
        query_count: Number of held-out queries whose rankings are compared.
        never_retrieved: Share of the new catalogue that is in none of the new model's top 100.
        mean_log_popularity: Mean of log(1 + events before the test) over the items in the new model's top 10.
        live: Version of the live bundle; empty if there is none.
        not_comparable: Reason why the live bundle cannot be compared; empty if it can.
        live_metrics: Metrics of the live bundle by name, on the same test part. Items that it does not have are ranked
            last. If the split has changed, the live bundle may have been trained on a part of the test.
        live_mean_log_popularity: `mean_log_popularity` of the live bundle.
        overlap_at_10: Mean share of the live top 10 that is in the new top 10 too.
        overlap_at_100: Mean share of the live top 100 that is in the new top 100 too.
        live_item_count: Number of items of the live bundle; None if there is none or it cannot be read.
        lost_item_count: Number of items of the live bundle that are not in the new catalogue.
        lost_item: Id of one of them; empty if there is none.
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
    live_item_count: int | None = None
    lost_item_count: int = 0
    lost_item: str = ""


def compare(
    store: BundleStore,
    recipe: Recipe,
    data: Data,
    *,
    users: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
) -> Comparison:
    """Returns the comparison of a new model with the live bundle of a store.

    Without a live bundle, or if it cannot be compared, only the fields about the new model and on lost items are set.

    Args:
        store: Store with the live bundle.
        recipe: Recipe of the new model.
        data: Data set and its split; both models are evaluated on the test part.
        users: [n] int, row numbers of users with held-out events, whose rankings are compared.
        queries: [n, dim] float32, embeddings of their queries by the new model.
        vectors: [item_count, dim] float32, embeddings of the catalogue by the new model.
    """
    dataset, parts = data
    item_count = len(dataset.items.ids)
    log_popularity = np.log1p(parts.known.item_counts(item_count))
    top = exact_top_k(queries, vectors, _TOP)  # [n, k]
    pointer = store.live()
    comparison = Comparison(
        query_count=len(queries),
        never_retrieved=1 - len(np.unique(top)) / item_count,
        mean_log_popularity=float(log_popularity[top[:, :10]].mean()),
        live=pointer.version if pointer else "",
    )
    if pointer is None:
        return dataclasses.replace(comparison, not_comparable="no bundle is live")
    comparison = dataclasses.replace(comparison, **_find_lost_items(store, pointer.version, dataset))
    try:
        live = open_bundle(store, pointer.version, recipe, dataset)
    except (NotComparable, BundleNotFound) as error:
        return dataclasses.replace(comparison, not_comparable=str(error))
    rows = live.rows(dataset.items.rows)  # [live item_count]
    live_queries = embed_users(live, recipe, dataset, parts.known, users, parts.test)
    live_top = rows[exact_top_k(live_queries, live.vectors, _TOP)]  # [n, k]
    return dataclasses.replace(
        comparison,
        live_metrics=_evaluate(live, rows, recipe, data),
        live_mean_log_popularity=float(np.where(live_top < 0, 0.0, log_popularity[live_top])[:, :10].mean()),
        overlap_at_10=_overlap(live_top[:, :10], top[:, :10]),
        overlap_at_100=_overlap(live_top, top),
    )


def _find_lost_items(store: BundleStore, version: str, dataset: Dataset) -> dict[str, Any]:
    """Returns the fields of `Comparison` on items of the live bundle that the data set lacks; none if it is damaged."""
    try:
        manifest = store.manifest(version)
        store.verify(version, paths_of(manifest, ITEMS))
        ids = read_items(store.path(version), manifest, {}).ids
    except (BundleRefused, BundleNotFound, OSError, ValueError, KeyError):
        return {}  # `open_bundle` says why
    lost = [item_id for item_id in ids if item_id not in dataset.items.rows]
    return {"live_item_count": len(ids), "lost_item_count": len(lost), "lost_item": lost[0] if lost else ""}


def _evaluate(live: DeployedBundle, rows: np.ndarray, recipe: Recipe, data: Data) -> dict[str, float]:
    """Returns the metrics of the live bundle on the test part, by name.

    Args:
        live: Live bundle.
        rows: Catalogue row of each item of the bundle; -1 for items that are not in the catalogue.
        recipe: Recipe of the new model.
        data: Data set and its split.
    """
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
    known, test = sample_users(parts.known, parts.test, TEST_USERS)
    new_users = reads_requests(recipe)
    held_out = HeldOut.of(
        known.pairs, test.pairs, item_count, repeats=recipe.split.repeats, item_counts=counts, new_users=new_users
    )
    return evaluate(held_out, score).means


def _overlap(old: np.ndarray, new: np.ndarray) -> float:
    """Returns the mean share of the items in a row of `old` [n, k] that are in the same row of `new` [n, k] too."""
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(old.tolist(), new.tolist(), strict=True)]
    return float(np.mean(shares))
