"""Measures what ``report.html`` shows beside the evaluation: searches, popularity, a map of the items, examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable, StringColumn, StringListColumn
from retrieval.bundle.manifest import GateResult, IndexSpec
from retrieval.index.registry import open_index
from trainer.data.events import Events
from trainer.data.splits import Data
from trainer.publishing.report.facts import facts_of
from trainer.publishing.report.page_data import (
    Example,
    HeldOutItem,
    ItemMap,
    Popularity,
    Recommendation,
    ReportData,
    SearchCurve,
    SearchPoint,
)

if TYPE_CHECKING:  # it imports tensorflow, which takes seconds
    from trainer.training.run import Run

_NEIGHBOURS, _TOP = 100, 10
_SEARCH_QUERIES, _FEWEST_QUERIES = 200, 20
_SECONDS_A_BUDGET = 0.3
"""Bounds what a large catalogue adds to a publish: fewer queries are measured there."""
_HALVINGS, _DOUBLINGS = 5, 2
"""Budgets below and above the published one."""
_CELLS = 2**27
"""Scores computed for the popularity of recommendations, at most; of these 1 in 8 are held at once."""
_MAP_ITEMS = 5000
_GROUPS = 30
"""An attribute of so many values, at most, can colour the map."""
_EXAMPLES, _HISTORY = 10, 10
_NONE = np.zeros(0, dtype=np.int32)
_TITLES = ("title", "name")


def collect(
    run: Run,
    data: Data,
    evaluation: Mapping[str, Any],
    gates: Mapping[str, GateResult],
    *,
    version: str,
    parent: str | None,
    users: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    index_path: Path,
    spec: IndexSpec,
) -> ReportData:
    """Returns the report of a bundle that is being published.

    Args:
        run: that the bundle is made of.
        data: Data set and its split.
        evaluation: as it is written to ``evaluation.json``.
        gates: results of the publish gates by name.
        version: of the new bundle.
        parent: the bundle that is live, if any.
        users: [n] user rows, held out.
        queries: [n, dim] float32, theirs.
        vectors: [item_count, dim] float32, unit length.
        index_path: of the written index.
        spec: how it is searched.
    """
    dataset, parts = data
    recipe = run.model.recipe
    titles, repeats = item_titles(dataset.items), recipe.split.repeats
    counts = parts.known.item_counts(len(vectors))
    return ReportData(
        title=f"{recipe.name}, bundle {version}",
        facts=facts_of(run, data, evaluation, version=version, parent=parent, spec=spec),
        recipe=recipe.to_json(),
        epochs=run.epochs,
        best_metric=recipe.training.metric,
        evaluation=evaluation,
        gates=gates,
        search=measure_search(index_path, vectors, queries, spec),
        popularity=measure_popularity(users, queries, vectors, parts.known, repeats=repeats),
        item_map=map_items(vectors, counts, dataset.items, titles),
        examples=choose_examples(
            dataset.user_ids, titles, parts.known, parts.test, users, queries, vectors, repeats=repeats
        ),
    )


def item_titles(items: ItemTable) -> list[str]:
    """Returns [item_count] texts to know items by: the attribute ``title`` or ``name``, the id where it has none."""
    for name in _TITLES:
        column = items.attributes.get(name)
        if isinstance(column, StringColumn):
            return [column.at(row) or item_id for row, item_id in enumerate(items.ids)]
    return list(items.ids)


def measure_search(path: Path, vectors: np.ndarray, queries: np.ndarray, spec: IndexSpec) -> SearchCurve | None:
    """Returns recall and time of the index at eight budgets around the published one, and the time of the exact scan.

    None where the file is no index of these vectors; a gate refuses it then.

    Args:
        path: of the index of `vectors`.
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length; at most 200 are used, one after another.
        spec: its kind, and the published budget.
    """
    try:
        index = open_index(spec.kind, spec.metric, path, vectors)
    except ValueError:
        return None
    k = min(_NEIGHBOURS, len(vectors))
    exact, exact_ms = _timed(lambda q: _scan(vectors, q, k), queries[:_SEARCH_QUERIES], 2 * _SECONDS_A_BUDGET)
    nearest = [set(rows.tolist()) for rows in exact]
    budgets = sorted({max(1, int(spec.search_budget * 2.0**power)) for power in range(-_HALVINGS, _DOUBLINGS + 1)})
    points: list[SearchPoint] = []
    for budget in budgets:
        # Bound now: a closure would search with the budget of a later round.
        found, ms = _timed(
            lambda q, budget=budget: index.search(q[np.newaxis], k, budget)[0].rows.tolist(),
            queries[: len(exact)],
            _SECONDS_A_BUDGET,
        )
        hits = [len(nearest[row].intersection(rows)) for row, rows in enumerate(found)]
        recall = sum(hits) / (k * len(hits))
        points.append(SearchPoint(budget, recall, float(np.median(ms)), float(np.percentile(ms, 95)), len(hits)))
    return SearchCurve(spec.kind, points, spec.search_budget, float(np.median(exact_ms)))


def _scan(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    scores = vectors @ query  # [item_count]
    return np.argpartition(scores, len(scores) - k)[len(scores) - k :]


def _timed(search: Callable[[np.ndarray], Any], queries: np.ndarray, limit_s: float) -> tuple[list[Any], np.ndarray]:
    """Returns the answers to [n, dim] queries, fewer than n where the limit is over, and the milliseconds of each."""
    answers: list[Any] = []
    times_ms: list[float] = []
    search(queries[0])  # the first search of an index reads its pages
    started = time.perf_counter()
    for query in queries:
        before = time.perf_counter()
        answers.append(search(query))
        times_ms.append(1000 * (time.perf_counter() - before))
        if len(answers) >= _FEWEST_QUERIES and time.perf_counter() - started > limit_s:
            break
    return answers, np.array(times_ms)


def measure_popularity(
    users: np.ndarray, queries: np.ndarray, vectors: np.ndarray, known: Events, *, repeats: bool = False
) -> Popularity:
    """Returns how often each item was met, and how often it stands in the top 10 of a user who does not know it.

    Args:
        users: [n] user rows.
        queries: [n, dim] float32, theirs.
        vectors: [item_count, dim] float32.
        known: events before the test.
        repeats: whether it counts where the user knows it too.
    """
    item_count = len(vectors)
    users = users[: max(_FEWEST_QUERIES, _CELLS // item_count)]
    step = max(1, _CELLS // 8 // item_count)
    recommended = np.zeros(item_count, dtype=np.int64)
    for start in range(0, len(users), step):
        batch = slice(start, start + step)
        left_out = [] if repeats else [_items_of(known, user) for user in users[batch]]
        scores = _scores(queries[: len(users)][batch], vectors, left_out)
        k = min(_TOP, item_count)
        top = np.argpartition(scores, item_count - k, axis=1)[:, item_count - k :]  # [batch, k]
        candidates = np.isfinite(np.take_along_axis(scores, top, axis=1))
        recommended += np.bincount(top[candidates], minlength=item_count)
    return Popularity(known.item_counts(item_count), recommended, len(users))


def map_items(vectors: np.ndarray, counts: np.ndarray, items: ItemTable, titles: Sequence[str]) -> ItemMap | None:
    """Returns the first two principal components of the most popular items (Pearson 1901); None under three items.

    Args:
        vectors: [item_count, dim] float32, dim at least 2.
        counts: [item_count] int64, events of each item.
        items: attributes to colour by: the first of text with 2 to 30 values; of a list its first value.
        titles: [item_count].
    """
    if len(vectors) < 3:
        return None
    rows = np.argsort(-counts, kind="stable")[:_MAP_ITEMS]
    centred = vectors[rows].astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, :-3:-1]  # [dim, 2]
    # The sign of an eigenvector is arbitrary: the same vectors should give the same map.
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
    total = variances.sum()
    shares = variances[:-3:-1] / total if total > 0 else np.zeros(2)
    name = _group_attribute(items)
    groups = [_group(items, name, row) for row in rows] if name else []
    explained = (float(shares[0]), float(shares[1]))
    return ItemMap(centred @ directions, [titles[row] for row in rows], groups, name, explained, len(vectors))


def _group_attribute(items: ItemTable) -> str:
    for name, column in items.attributes.items():
        coded = isinstance(column, StringColumn | StringListColumn)
        if coded and name not in _TITLES and 2 <= len(column.values) <= _GROUPS:
            return name
    return ""


def _group(items: ItemTable, name: str, row: int) -> str:
    value = items.attributes[name].at(row)
    first = value[0] if isinstance(value, tuple) else value
    return "none" if first is None else str(first)


def choose_examples(
    user_ids: Sequence[str],
    titles: Sequence[str],
    known: Events,
    test: Events,
    users: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    repeats: bool = False,
) -> list[Example]:
    """Returns up to ten users: the first with a held-out item that counts, then the first of the others.

    Args:
        user_ids: [user_count] external ids.
        titles: [item_count].
        known: events before the test.
        test: held-out events.
        users: [n] user rows.
        queries: [n, dim] float32, theirs.
        vectors: [item_count, dim] float32.
        repeats: whether items that a user knew are recommended, and count; else they are left out.
    """
    left_out = [_NONE if repeats else _items_of(known, user) for user in users]
    relevant = [np.setdiff1d(_items_of(test, user), items) for user, items in zip(users, left_out, strict=True)]
    chosen = sorted(range(len(users)), key=lambda at: not len(relevant[at]))[:_EXAMPLES]
    examples: list[Example] = []
    for at in chosen:
        history = _items_of(known, users[at])
        scores = _scores(queries[at : at + 1], vectors, [left_out[at]])[0]
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order])]
        recommendations = [Recommendation(titles[i], float(scores[i]), bool(i in relevant[at])) for i in order[:_TOP]]
        held_out = [HeldOutItem(titles[i], int(np.flatnonzero(order == i)[0]) + 1) for i in relevant[at]]
        examples.append(
            Example(
                user=user_ids[users[at]],
                history=[titles[i] for i in history[::-1][:_HISTORY]],
                known_count=len(np.unique(history)),
                recommendations=recommendations,
                held_out=sorted(held_out, key=lambda item: item.rank),
            )
        )
    return examples


def _items_of(events: Events, user: int) -> np.ndarray:
    """Returns the item rows of a user's events, oldest first: [n] int32."""
    same = np.int32(user)  # of another type, all users would be copied to it
    return events.items[np.searchsorted(events.users, same) : np.searchsorted(events.users, same, side="right")]


def _scores(queries: np.ndarray, vectors: np.ndarray, left_out: Sequence[np.ndarray]) -> np.ndarray:
    """Returns [n, item_count] float32 dot products, -inf for the items that are left out of a row."""
    scores = queries @ vectors.T
    for row, items in enumerate(left_out):
        scores[row, items] = -np.inf
    return scores
