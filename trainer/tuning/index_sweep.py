"""Builds indexes of several kinds and parameters; measures their recall, search time, size and build time."""

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
"""Recall that ends the measurements of an index: no larger search budget is measured."""
_SECONDS_A_POINT = 1.0
"""Time limit of the searches with one search budget, in seconds."""
_FEWEST_QUERIES = 20
_SLOW_US = 5000.0
"""Median search time in microseconds that ends the measurements of an index: no larger budget is measured.

The limit is four times the time of the exact scan if that is more.
"""
_ALIKE = 1.1
"""Largest ratio of two search times that count as equal; the smaller index is then recommended."""


@dataclass(frozen=True)
class Point:
    """Recall and time of an index at one search budget, with one query per search.

    Attributes:
        budget: Search budget, in the unit of the kind of index.
        recall_at_100: Mean share of the exact 100 nearest items that the index returns, 0 to 1.
        median_us: Median time of one search in microseconds.
        p95_us: 95th percentile of the time of one search in microseconds.
    """

    budget: int
    recall_at_100: float
    median_us: float
    p95_us: float


@dataclass(frozen=True)
class MeasuredIndex:
    """An index of one kind with one set of parameters, and its measurements.

    Attributes:
        kind: Kind of index, as `index.kind` of a recipe.
        parameters: Parameters that the index was built with.
        build_s: Build time in seconds.
        bytes_per_item: Size of the index file in bytes, divided by the number of items.
        points: Recall and search time at each measured budget, ascending by budget.
        storage: How the index holds the vectors: ``float32``, ``float16`` or ``int8``.
    """

    kind: str
    parameters: Mapping[str, int]
    build_s: float
    bytes_per_item: float
    points: Sequence[Point]
    storage: str = "float32"

    @property
    def name(self) -> str:
        """Name of the index for people: its kind, its storage unless that is float32, and its parameters."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.parameters.items())
        stored = "" if self.storage == "float32" else f" {self.storage}"
        return f"{self.kind}{stored}, {shown.split(', seed')[0]}"

    def cheapest(self, min_recall: float) -> Point | None:
        """Returns the point with the smallest budget whose recall is at least `min_recall`; None if there is none."""
        return next((point for point in self.points if point.recall_at_100 >= min_recall), None)


def perturb_items(vectors: np.ndarray, golden_queries: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Returns synthetic queries, as far from their nearest item as real queries are on average.

    Args:
        vectors: [item_count, dim] float32, unit length: item embeddings.
        golden_queries: [n, dim] float32, unit length: embeddings of real queries.
        count: Number of synthetic queries.
        seed: Seed of the random choice of items and directions.

    Returns:
        [count, dim] float32, unit length.
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
    """Builds and measures an index with each combination of parameters in the settings.

    Args:
        vectors: [item_count, dim] float32, unit length: item embeddings.
        queries: [n, dim] float32, unit length: query embeddings to search for.
        settings: Index settings, one for each kind of index to measure.
        folder: Folder for the index files; only one file exists at a time.
        tell: Function to call with the name of each step.
        seed: Seed of every build.

    Returns:
        Measured indexes, and recall and search time of the exact scan.

    Raises:
        ExportError: An index file cannot be written, or the package of its kind is not installed.
    """
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    k = exact.shape[1]
    times = time_searches(lambda query: scan(vectors, query, k), queries)
    exact_scan = Point(len(vectors), 1.0, float(np.median(times)), float(np.percentile(times, 95)))
    measured: list[MeasuredIndex] = []
    path = folder / "index"
    for of_kind in settings:
        for parameters in index_selection.parameter_grid(of_kind, len(vectors), seed):
            tell(f"{of_kind.file_kind} {parameters}")
            started = time.perf_counter()
            index_selection.write_index(of_kind.file_kind, parameters, vectors, path, tell)
            build_s = time.perf_counter() - started
            opened = open_index(of_kind.file_kind, METRIC, path, vectors)
            budgets = index_selection.budgets(of_kind.file_kind, parameters, len(vectors))
            points = _measure_points(opened, vectors, queries, exact, budgets, max(_SLOW_US, 4 * exact_scan.median_us))
            size = path.stat().st_size / len(vectors)
            measured.append(MeasuredIndex(of_kind.kind, parameters, build_s, size, points, of_kind.storage))
            path.unlink()  # the mapped file stays readable until the index is dropped
    return measured, exact_scan


def recommend(measured: Sequence[MeasuredIndex], min_recall: float) -> tuple[MeasuredIndex, Point]:
    """Returns the index that reaches a recall in the shortest time, and its measurement at that recall.

    Among indexes whose times differ by at most 10 %, the one with the smallest file is chosen.

    Args:
        measured: Measured indexes to choose from.
        min_recall: Recall@100 to reach, 0 to 1.

    Raises:
        ExportError: No index reaches the recall.
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
    """Returns the TOML text of a recipe's [index] table for an index like `chosen` that has to reach `min_recall`."""
    parameters = {
        name: value if name == "ef_construction" else [value]
        for name, value in chosen.parameters.items()
        if name != "seed"
    }
    storage = {} if chosen.storage == "float32" else {"storage": chosen.storage}
    table = {"kind": chosen.kind, **storage, "min_recall_at_100": min_recall, **parameters}
    return tomlkit.dumps({"index": table}).strip()


def to_json(measured: Sequence[MeasuredIndex], exact_scan: Point) -> dict[str, object]:
    """Returns all measurements as plain values, which ``--json`` prints."""
    return {
        "indexes": [dataclasses.asdict(one) for one in measured],
        "exact_scan": dataclasses.asdict(exact_scan),
    }


def time_searches(search: Callable[[np.ndarray], object], queries: np.ndarray) -> np.ndarray:
    """Returns the duration of each of m searches in microseconds: [m] float64, m at most n.

    At least 20 queries are searched (if there are as many), and further ones until a second is over.

    Args:
        search: Function that searches with one query, [1, dim] float32.
        queries: [n, dim] float32, unit length: query embeddings.
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
    """Measures an index at ascending search budgets; ends at recall 0.995 or a median time above `slowest_us`.

    Args:
        opened: Index to measure.
        vectors: [item_count, dim] float32, item embeddings.
        queries: [n, dim] float32, query embeddings.
        exact: Exact 100 nearest items of each query.
        budgets: Search budgets, ascending.
        slowest_us: Median search time in microseconds above which no larger budget is measured.
    """
    points: list[Point] = []
    k = exact.shape[1]
    for budget in budgets:
        recall = index_recall(opened, queries, exact, budget)
        times = time_searches(lambda query, budget=budget: opened.search(query, k, budget), queries)
        points.append(Point(budget, recall, float(np.median(times)), float(np.percentile(times, 95))))
        if recall >= _ENOUGH or points[-1].median_us > slowest_us:
            break
    return points
