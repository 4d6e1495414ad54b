"""Measures kinds and parameters of index on given vectors: recall by time, size and build time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomlkit

from retrieval.index.build import Tell
from retrieval.index.recall import NEIGHBOURS, exact_top_k, index_recall
from retrieval.index.registry import METRIC, Index, open_index
from retrieval.index.scan import scan
from trainer.errors import ExportError
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index as IndexSettings

_ENOUGH = 0.995
"""Recall from which on no larger budget is measured."""
_SECONDS_A_POINT = 1.0
"""Time limit of the searches of one budget."""
_FEWEST_QUERIES = 20
_SLOW_US = 5000.0
"""Median time above which no larger budget is measured, unless four times the time of the exact scan is more."""
_ALIKE = 1.1
"""Times that differ by at most this factor count as equal, and the smaller index is recommended."""


@dataclass(frozen=True)
class Point:
    """Recall and time of searches with one query each, at one budget.

    Attributes:
        budget: Search budget, in the unit of the kind of index.
        recall_at_100: Mean recall of the exact 100 nearest items, 0 to 1.
        median_us: Median time of one search in microseconds.
        p95_us: 95th percentile of the time of one search in microseconds.
    """

    budget: int
    recall_at_100: float
    median_us: float
    p95_us: float


@dataclass(frozen=True)
class MeasuredIndex:
    """An index with its measurements.

    Attributes:
        kind: Kind of index, see `retrieval.index.registry`.
        parameters: Parameters that the index was built with.
        build_s: Build time in seconds.
        bytes_per_item: Size of the index file in bytes, divided by the number of items.
        points: Recall and time by search budget, ascending by budget.
    """

    kind: str
    parameters: Mapping[str, int]
    build_s: float
    bytes_per_item: float
    points: Sequence[Point]

    @property
    def name(self) -> str:
        """Kind and parameters as text."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.parameters.items())
        return f"{self.kind}, {shown.split(', seed')[0]}"

    def cheapest(self, min_recall: float) -> Point | None:
        """Returns the point with the smallest budget that reaches a recall; None if no point does."""
        return next((point for point in self.points if point.recall_at_100 >= min_recall), None)


def perturb_items(vectors: np.ndarray, golden_queries: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Returns synthetic queries, as far from their nearest item as real queries are on average: [count, dim] float32.

    Args:
        vectors: [item_count, dim] float32, unit length.
        golden_queries: [n, dim] float32, unit length: real queries.
        count: number of queries to make.
        seed: seed of the random choice of items and directions.
    """
    generator = np.random.default_rng(seed)
    cosine = float(np.mean([scores[0] for _, scores in scan(vectors, golden_queries, 1)]))
    items = np.array(vectors[generator.integers(0, len(vectors), count)])  # [count, dim]
    noise = generator.standard_normal(items.shape, dtype=np.float32)
    noise -= items * np.einsum("nd,nd->n", noise, items)[:, np.newaxis]  # orthogonal to the item
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    queries = max(cosine, 0.05) * items + np.sqrt(max(0.0, 1.0 - cosine**2)) * noise  # [count, dim]
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def sweep(
    vectors: np.ndarray,
    queries: np.ndarray,
    settings: Sequence[IndexSettings],
    folder: Path,
    tell: Tell = lambda step: None,
    seed: int = 1,
) -> tuple[list[MeasuredIndex], Point]:
    """Builds and measures every index of the settings; returns them and the time of the exact scan.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length.
        settings: index settings of each kind to measure.
        folder: folder for the index files, of which one exists at a time.
        tell: called with the name of each step.
        seed: seed of every build.

    Raises:
        ExportError: an index file cannot be written, or the package of its kind is not installed.
    """
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    k = exact.shape[1]
    times = time_searches(lambda query: scan(vectors, query, k), queries)
    exact_scan = Point(len(vectors), 1.0, float(np.median(times)), float(np.percentile(times, 95)))
    measured: list[MeasuredIndex] = []
    path = folder / "index"
    for of_kind in settings:
        for parameters in index_selection.parameter_grid(of_kind, len(vectors), seed):
            tell(f"{of_kind.kind} {parameters}")
            started = time.perf_counter()
            index_selection.write_index(of_kind.kind, parameters, vectors, path, tell)
            build_s = time.perf_counter() - started
            opened = open_index(of_kind.kind, METRIC, path, vectors)
            budgets = index_selection.budgets(of_kind.kind, parameters, len(vectors))
            points = _measure_points(opened, vectors, queries, exact, budgets, max(_SLOW_US, 4 * exact_scan.median_us))
            size = path.stat().st_size / len(vectors)
            measured.append(MeasuredIndex(of_kind.kind, parameters, build_s, size, points))
            path.unlink()  # the mapped file stays readable until the index is dropped
    return measured, exact_scan


def recommend(measured: Sequence[MeasuredIndex], min_recall: float) -> tuple[MeasuredIndex, Point]:
    """Returns the index that reaches a recall in the shortest time, and its point; of similar times, the smallest.

    Args:
        measured: indexes to choose from.
        min_recall: recall of the exact 100 nearest items to reach, 0 to 1.

    Raises:
        ExportError: no index reaches the recall.
    """
    enough = [(one, point) for one in measured if (point := one.cheapest(min_recall)) is not None]
    if not enough:
        best = max((point.recall_at_100 for one in measured for point in one.points), default=0.0)
        raise ExportError(
            f"no measured index reaches recall {min_recall:.3f} of the exact 100 nearest items, the best has "
            f"{best:.3f}; lower --min-recall, or name other --kinds"
        )
    quickest = min(point.median_us for _, point in enough)
    alike = [(one, point) for one, point in enough if point.median_us <= _ALIKE * quickest]
    return min(alike, key=lambda pair: pair[0].bytes_per_item)


def to_recipe(chosen: MeasuredIndex, min_recall: float) -> str:
    """Returns the [index] table of a recipe that builds an index with the parameters of `chosen`, as TOML."""
    parameters = {
        name: value if name == "ef_construction" else [value]
        for name, value in chosen.parameters.items()
        if name != "seed"
    }
    table = {"kind": chosen.kind, "min_recall_at_100": min_recall, **parameters}
    return tomlkit.dumps({"index": table}).strip()


def to_json(measured: Sequence[MeasuredIndex], exact_scan: Point) -> dict[str, object]:
    """Returns all measurements as plain values, for ``--json``."""
    return {
        "indexes": [dataclasses.asdict(one) for one in measured],
        "exact_scan": dataclasses.asdict(exact_scan),
    }


def time_searches(search: Callable[[np.ndarray], object], queries: np.ndarray) -> np.ndarray:
    """Returns the microseconds of each search: [m] float64, with m at most n.

    Args:
        search: function that is called with one query at a time, [1, dim]. It is called for at least 20 queries, and
            for further ones until a second is over.
        queries: [n, dim] float32, unit length.
    """
    search(queries[:1])
    times: list[float] = []
    started = time.perf_counter()
    for row in range(len(queries)):
        before = time.perf_counter()
        if len(times) >= _FEWEST_QUERIES and before - started > _SECONDS_A_POINT:
            break
        search(queries[row : row + 1])
        times.append((time.perf_counter() - before) * 1e6)
    return np.array(times)


def _measure_points(
    opened: Index,
    vectors: np.ndarray,
    queries: np.ndarray,
    exact: np.ndarray,
    budgets: Sequence[int],
    slowest_us: float,
) -> list[Point]:
    """Returns a point for each budget, up to the first with recall 0.995 or a median time above `slowest_us`."""
    points: list[Point] = []
    k = exact.shape[1]
    for budget in budgets:
        recall = index_recall(opened, queries, exact, budget)
        times = time_searches(lambda query, budget=budget: opened.search(query, k, budget), queries)
        points.append(Point(budget, recall, float(np.median(times)), float(np.percentile(times, 95))))
        if recall >= _ENOUGH or points[-1].median_us > slowest_us:
            break
    return points
