"""Measures kinds and parameters of index on given vectors: recall against time, size and build time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
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
"""A larger budget than the first one that finds this share is not measured."""
_SECONDS_A_POINT = 1.0
_FEWEST_QUERIES = 20
_SLOW_US = 5000.0
"""Or four times as long as the exact scan: larger budgets are of no use then."""
_ALIKE = 1.1
"""Times that differ by no more than this factor count as the same: then the smaller index is recommended."""


@dataclass(frozen=True)
class Point:
    """What a search finds, and takes, at one budget, one query at a time.

    Attributes:
        budget: in the unit of the kind.
        recall_at_100: mean share of the exact 100 nearest that are found.
        median_us: of one search, in microseconds.
        p95_us: likewise.
    """

    budget: int
    recall_at_100: float
    median_us: float
    p95_us: float


@dataclass(frozen=True)
class MeasuredIndex:
    """One index.

    Attributes:
        kind: of `retrieval.index.registry`.
        parameters: it was built with.
        build_s: seconds.
        bytes_per_item: of its file.
        points: ascending by budget.
    """

    kind: str
    parameters: Mapping[str, int]
    build_s: float
    bytes_per_item: float
    points: Sequence[Point]

    @property
    def name(self) -> str:
        """Kind and parameters, for people."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.parameters.items())
        return f"{self.kind}, {shown.split(', seed')[0]}"

    def cheapest(self, min_recall: float) -> Point | None:
        """Returns the point with the smallest budget that finds enough, if any."""
        return next((point for point in self.points if point.recall_at_100 >= min_recall), None)


def perturb_items(vectors: np.ndarray, golden_queries: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Returns made queries, as far from their nearest item as `golden_queries` are on average: [count, dim] float32.

    Args:
        vectors: [item_count, dim] float32, unit length.
        golden_queries: [n, dim] float32, unit length: real queries.
        count: how many to make.
        seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    cosine = float(np.mean([scores[0] for _, scores in scan(vectors, golden_queries, 1)]))
    items = np.array(vectors[generator.integers(0, len(vectors), count)])  # [count, dim]
    noise = generator.standard_normal(items.shape, dtype=np.float32)
    noise -= items * np.einsum("nd,nd->n", noise, items)[:, np.newaxis]  # at a right angle to the item
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    made = max(cosine, 0.05) * items + np.sqrt(max(0.0, 1.0 - cosine**2)) * noise
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def sweep(
    vectors: np.ndarray,
    queries: np.ndarray,
    settings: Sequence[IndexSettings],
    folder: Path,
    tell: Tell = lambda step: None,
    seed: int = 1,
) -> tuple[list[MeasuredIndex], Point]:
    """Returns every index that the settings name, measured, and the exact scan, whose budget is the item count.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length.
        settings: one for each kind.
        folder: for the files, one at a time.
        tell: called with the name of each step.
        seed: of the builds.

    Raises:
        ExportError: a file cannot be written, or a package is missing.
    """
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    k = exact.shape[1]
    times = time_searches(lambda query: scan(vectors, query, k), queries)
    scanned = Point(len(vectors), 1.0, float(np.median(times)), float(np.percentile(times, 95)))
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
            points = _measure_points(opened, vectors, queries, exact, budgets, max(_SLOW_US, 4 * scanned.median_us))
            size = path.stat().st_size / len(vectors)
            measured.append(MeasuredIndex(of_kind.kind, parameters, build_s, size, points))
            path.unlink()  # what is mapped stays readable until it is let go
    return measured, scanned


def recommend(measured: Sequence[MeasuredIndex], min_recall: float) -> tuple[MeasuredIndex, Point]:
    """Returns the index that finds enough in the shortest time; of those about as quick, the smallest.

    Raises:
        ExportError: none finds enough.
    """
    enough = [(one, point) for one in measured if (point := one.cheapest(min_recall)) is not None]
    if not enough:
        best = max((point.recall_at_100 for one in measured for point in one.points), default=0.0)
        raise ExportError(
            f"no index measured finds {min_recall:.3f} of the exact 100 nearest, the best {best:.3f}; ask for less "
            "(--min-recall), or for larger indexes"
        )
    quickest = min(point.median_us for _, point in enough)
    alike = [(one, point) for one, point in enough if point.median_us <= _ALIKE * quickest]
    return min(alike, key=lambda pair: pair[0].bytes_per_item)


def to_recipe(chosen: MeasuredIndex, min_recall: float) -> str:
    """Returns the [index] table of a recipe that builds an index with these parameters."""
    tried = {
        name: value if name == "ef_construction" else [value]
        for name, value in chosen.parameters.items()
        if name != "seed"
    }
    table = {"kind": chosen.kind, "min_recall_at_100": min_recall, **tried}
    return tomlkit.dumps({"index": table}).strip()


def to_json(measured: Sequence[MeasuredIndex], scanned: Point) -> dict[str, object]:
    """Returns all as plain values."""
    return {
        "indexes": [dataclasses.asdict(one) for one in measured],
        "exact_scan": dataclasses.asdict(scanned),
    }


def time_searches(search, queries: np.ndarray) -> np.ndarray:
    """Returns the microseconds of searches with one query each, [1, dim]; at least 20, then until a second is over."""
    search(queries[:1])
    times: list[float] = []
    started = time.perf_counter()
    for at in range(len(queries)):
        before = time.perf_counter()
        if len(times) >= _FEWEST_QUERIES and before - started > _SECONDS_A_POINT:
            break
        search(queries[at : at + 1])
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
    """Returns a point for each budget, up to the first that finds nearly all, or takes longer than `slowest_us`."""
    points: list[Point] = []
    k = exact.shape[1]
    for budget in budgets:
        recall = index_recall(opened, queries, exact, budget)
        times = time_searches(lambda query, budget=budget: opened.search(query, k, budget), queries)
        points.append(Point(budget, recall, float(np.median(times)), float(np.percentile(times, 95))))
        if recall >= _ENOUGH or points[-1].median_us > slowest_us:
            break
    return points
