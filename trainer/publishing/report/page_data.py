"""The content of ``report.html`` as plain values; `trainer.publishing.report.collect` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.bundle.manifest import GateResult


@dataclass(frozen=True)
class SearchPoint:
    """Recall and time of a search at one budget.

    Attributes:
        budget: Search budget, in the unit of the kind of index; at least 1.
        recall_at_100: Mean recall of the exact 100 nearest items, 0 to 1.
        median_ms: Median time of one query.
        p95_ms: 95th percentile of the time of one query.
        query_count: Number of measured queries.
    """

    budget: int
    recall_at_100: float
    median_ms: float
    p95_ms: float
    query_count: int


@dataclass(frozen=True)
class SearchCurve:
    """Recall and time of the index by search budget, and the time of the exact scan.

    Attributes:
        kind: Kind of index, see `retrieval.index.registry`.
        points: Measurements, ascending by budget.
        published_budget: Search budget of the bundle, the default of the ANN service.
        exact_ms: Median time of one query by a scan of all vectors.
    """

    kind: str
    points: Sequence[SearchPoint]
    published_budget: int
    exact_ms: float


@dataclass(frozen=True)
class Popularity:
    """Popularity of the items, and how often each is recommended.

    Attributes:
        events: [item_count] int64, number of events of each item before the test.
        recommended: [item_count] int64, number of users whose top 10 holds the item.
        user_count: Number of users whose top 10 was computed.
    """

    events: np.ndarray
    recommended: np.ndarray
    user_count: int


@dataclass(frozen=True)
class ItemMap:
    """Item vectors in their first two principal components.

    Attributes:
        points: [n, 2] float64, first and second principal component.
        titles: [n] titles of the items.
        groups: [n] values of the attribute that colours the points; empty if no attribute does.
        group_name: Name of that attribute; empty if no attribute colours the points.
        explained: Shares of the variance along both components, 0 to 1.
        item_count: Number of items of the catalogue, at least n.
    """

    points: np.ndarray
    titles: Sequence[str]
    groups: Sequence[str]
    group_name: str
    explained: tuple[float, float]
    item_count: int


@dataclass(frozen=True)
class Recommendation:
    """One item of a user's top 10.

    Attributes:
        title: Title of the item.
        score: Dot product of the query and the item vector.
        held_out: Whether the user interacted with the item in the test part.
    """

    title: str
    score: float
    held_out: bool


@dataclass(frozen=True)
class HeldOutItem:
    """An item that a user interacted with in the test part.

    Attributes:
        title: Title of the item.
        rank: Rank of the item, from 1, among the items that the user does not know, or among all if repeats count.
    """

    title: str
    rank: int


@dataclass(frozen=True)
class Example:
    """One user with the recommendations.

    Attributes:
        user: External id of the user.
        history: Titles of the last items before the test, newest first.
        known_count: Number of distinct items before the test; they are not recommended unless repeats count.
        recommendations: Top 10, best first.
        held_out: Relevant items of the test part, best rank first.
    """

    user: str
    history: Sequence[str]
    known_count: int
    recommendations: Sequence[Recommendation]
    held_out: Sequence[HeldOutItem]


@dataclass(frozen=True)
class ReportData:
    """Content of the whole page. Sections without content are left out of the page.

    Attributes:
        title: Title of the page.
        facts: Lines of the summary by label.
        recipe: Resolved recipe, as `trainer.recipe.recipe.Recipe.to_json` returns it.
        epochs: Measurements of each epoch by name, with ``epoch`` from 1 and validation metrics as ``val_NAME``.
        best_metric: Validation metric that early stopping uses, for instance ``ndcg@10``.
        evaluation: Content of ``evaluation.json``: ``metrics`` by method and name, and further results.
        gates: Results of the publish gates by name.
        search: Recall and time of the index; None: not measured.
        popularity: Popularity of the recommendations; None: not measured.
        item_map: Map of the item vectors; None: too few items.
        examples: Users with their recommendations.
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
