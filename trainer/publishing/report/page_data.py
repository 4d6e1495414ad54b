"""What ``report.html`` shows, as plain values: measured by `trainer.publishing.report.measures`, rendered by `trainer.publishing.report.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.bundle.manifest import GateResult


@dataclass(frozen=True)
class SearchPoint:
    """What a search of the index finds, and takes, at one budget.

    Attributes:
        budget: of a search, in the unit of the kind of index; at least 1.
        recall_at_100: mean share of the exact 100 nearest items that are found, 0 to 1.
        median_ms: of one query.
        p95_ms: likewise.
        query_count: that were measured.
    """

    budget: int
    recall_at_100: float
    median_ms: float
    p95_ms: float
    query_count: int


@dataclass(frozen=True)
class SearchCurve:
    """The index against the exact scan.

    Attributes:
        kind: of the index, see `retrieval.index.registry`.
        points: ascending by budget.
        published_budget: that the services use where a caller names none.
        exact_ms: median time of one query by a scan of all vectors.
    """

    kind: str
    points: Sequence[SearchPoint]
    published_budget: int
    exact_ms: float


@dataclass(frozen=True)
class Popularity:
    """How often items were met before the test, and how often they are recommended.

    Attributes:
        events: [item_count] int64, known events of each item.
        recommended: [item_count] int64, top 10s that each item stands in.
        user_count: whose top 10s these are.
    """

    events: np.ndarray
    recommended: np.ndarray
    user_count: int


@dataclass(frozen=True)
class ItemMap:
    """Item vectors in their two main directions.

    Attributes:
        points: [n, 2] float, by principal component.
        titles: [n].
        groups: [n] values of the attribute that colours the points; empty where there is none.
        group_name: of that attribute; empty where there is none.
        explained: shares of the variance of both directions, 0 to 1.
        item_count: of the catalogue that the n are of.
    """

    points: np.ndarray
    titles: Sequence[str]
    groups: Sequence[str]
    group_name: str
    explained: tuple[float, float]
    item_count: int


@dataclass(frozen=True)
class Recommendation:
    """One line of a user's top 10.

    Attributes:
        title: of the item.
        score: dot product of query and item.
        held_out: whether the user met the item in the test part.
    """

    title: str
    score: float
    held_out: bool


@dataclass(frozen=True)
class HeldOutItem:
    """What a user met in the test part.

    Attributes:
        title: of the item.
        rank: among the items that are ranked, from 1: those that the user did not know, or all where repeats count.
    """

    title: str
    rank: int


@dataclass(frozen=True)
class Example:
    """One user.

    Attributes:
        user: external id.
        history: titles of the last known items, newest first.
        known_count: distinct items that the user knew; they are not recommended, unless repeats count.
        recommendations: best first.
        held_out: items of the test part that count, best rank first.
    """

    user: str
    history: Sequence[str]
    known_count: int
    recommendations: Sequence[Recommendation]
    held_out: Sequence[HeldOutItem]


@dataclass(frozen=True)
class ReportData:
    """All of the page. Whatever is empty is left out of it.

    Attributes:
        title: of the page.
        facts: of the summary, by label.
        recipe: resolved, as `trainer.recipe.recipe.Recipe.to_json`.
        epochs: what each epoch measured: numbers by name, with ``epoch`` from 1 and ``val_METRIC`` of the validation.
        best_metric: of the validation, that early stopping goes by, for instance ``ndcg@10``.
        evaluation: as in ``evaluation.json``: ``metrics`` by method and name, and what else was evaluated.
        gates: results of the publish gates by name.
        search: of the index.
        popularity: of what is recommended.
        item_map: of the item vectors.
        examples: users with their recommendations.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, Any]] = ()
    best_metric: str = "ndcg@10"
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, GateResult] = field(default_factory=dict)
    search: SearchCurve | None = None
    popularity: Popularity | None = None
    item_map: ItemMap | None = None
    examples: Sequence[Example] = ()
