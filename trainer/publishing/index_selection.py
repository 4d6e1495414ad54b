"""The index of a bundle: its parameters and search budget chosen by measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retrieval.bundle.manifest import IndexSpec
from retrieval.index.build import Tell, build_file, parameter_grid
from retrieval.index.registry import METRIC, Index, open_index
from retrieval.index.scan import scan
from trainer.errors import ExportError
from trainer.recipe.recipe import Index as IndexSettings

NEIGHBOURS = 100
"""Recall is measured on so many neighbours."""

_STEP = 1.25
"""Between one budget and the next."""

WHAT_TO_RAISE = {"annoy": "index.trees", "faiss_hnsw": "index.links", "faiss_ivf": "index.lists"}


def exact_top_k(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k largest dot products, best first: [n, min(k, item_count)] int64.

    Args:
        queries: [n, dim] float32, unit length.
        vectors: [item_count, dim] float32, unit length.
        k: how many.
    """
    return np.stack([rows for rows, _ in scan(vectors, queries, k)])


def build(
    vectors: np.ndarray,
    queries: np.ndarray,
    path: Path,
    *,
    settings: IndexSettings,
    seed: int,
    tell: Tell = lambda step: None,
) -> IndexSpec:
    """Writes the index of the cheapest parameters that find enough, and returns how to search it.

    Cheap is a search that takes little time by `retrieval.index.registry.Index.cost`; of equals, the smaller index.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length, held out: recall is measured on them.
        path: file to make.
        settings: of the recipe: the kind, what to try, and the recall to reach.
        seed: of the build.
        tell: called with the name of each step.

    Raises:
        ExportError: the index cannot be written, or nothing finds enough.
    """
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    best: tuple[float, IndexSpec] | None = None
    grid = parameter_grid(settings, len(vectors), seed)
    candidate = path.with_name(f"{path.name}.candidate")
    for number, parameters in enumerate(grid, 1):
        tell_named = _named(f"index {number} of {len(grid)}: ", tell)
        build_file(settings.kind, parameters, vectors, candidate, tell_named)
        index = open_index(settings.kind, METRIC, candidate, vectors)
        tell_named("measuring recall")
        for budget in budgets(settings.kind, parameters, len(vectors)):
            cost = index.cost(NEIGHBOURS, budget)
            if best is not None and cost >= best[0]:
                break
            found = recall(index, queries, exact, budget)
            if found >= settings.min_recall_at_100:
                best = cost, IndexSpec(settings.kind, METRIC, parameters, budget, found)
                # Other indexes may be open on a file of this name: a new one takes the name, none is overwritten.
                candidate.replace(path)
                break
        candidate.unlink(missing_ok=True)
    if best is None:
        raise ExportError(
            f"no {settings.kind} index of {grid} reaches recall {settings.min_recall_at_100}; "
            f"add larger values to {WHAT_TO_RAISE[settings.kind]}"
        )
    return best[1]


def rebuild(vectors: np.ndarray, queries: np.ndarray, path: Path, *, old: IndexSpec, min_recall: float) -> IndexSpec:
    """Writes the index of changed vectors with kind, parameters and seed of the old one; returns how to search it.

    The search budget is the old one, raised by a quarter at a time where it finds too little.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length: recall is measured on them.
        path: file to make.
        old: of the index before.
        min_recall: of the exact 100 nearest, the share to find.

    Raises:
        ExportError: the index cannot be written.
    """
    parameters = dict(old.parameters)
    if "lists" in parameters:  # no more than there are items
        parameters["lists"] = min(parameters["lists"], len(vectors))
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    build_file(old.kind, parameters, vectors, path)
    index = open_index(old.kind, METRIC, path, vectors)
    tried = [
        old.search_budget,
        *(b for b in budgets(old.kind, parameters, len(vectors)) if b > old.search_budget),
    ]
    measured = ((budget, recall(index, queries, exact, budget)) for budget in tried)
    budget, found = next(((b, r) for b, r in measured if r >= min_recall), (0, 0.0))
    if not budget:  # the gate will say that even the last one finds too little
        budget, found = tried[-1], recall(index, queries, exact, tried[-1])
    return IndexSpec(old.kind, old.metric, parameters, budget, found)


def measure_recall(path: Path, vectors: np.ndarray, queries: np.ndarray, spec: IndexSpec) -> float:
    """Returns the share of the exact 100 nearest that a written index finds; 0 where it is none of these vectors.

    Args:
        path: of the index, written by this process.
        vectors: [item_count, dim] float32, that it should be of.
        queries: [n, dim] float32, unit length.
        spec: how it is searched.
    """
    try:
        index = open_index(spec.kind, spec.metric, path, vectors)
    except ValueError:
        return 0.0
    return recall(index, queries, exact_top_k(queries, vectors, NEIGHBOURS), spec.search_budget)


def budgets(kind: str, parameters: Mapping[str, int], item_count: int) -> list[int]:
    """Returns the budgets to try, ascending by a quarter; the last one finds all that the index can."""
    match kind:
        case "annoy":  # every leaf of every tree
            first, last = NEIGHBOURS, max(NEIGHBOURS, 2 * item_count * parameters["trees"])
        case "faiss_hnsw":
            first, last = NEIGHBOURS, max(NEIGHBOURS, item_count)
        case _:
            first, last = 1, parameters["lists"]
    count = math.ceil(math.log(last / first, _STEP)) if last > first else 0
    return sorted({int(first * _STEP**step) for step in range(count)} | {last})


def recall(index: Index, queries: np.ndarray, exact: np.ndarray, budget: int) -> float:
    """Returns the mean share of each row of `exact` [n, k] that the index finds."""
    k = exact.shape[1]
    found = index.search(queries, k, budget)
    hits = sum(len(set(rows.tolist()) & set(e)) for (rows, _), e in zip(found, exact.tolist(), strict=True))
    return hits / (k * len(queries))


def _named(name: str, tell: Tell) -> Tell:
    return lambda step: tell(name + step)
