"""Chooses the parameters and the search budget of a bundle's index by measuring recall, and writes the index."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retrieval.bundle.manifest import IndexSpec
from retrieval.index import recall
from retrieval.index.build import Tell, default_lists
from retrieval.index.errors import SearchIndexError
from retrieval.index.merged import open_indexes, part_paths
from retrieval.index.registry import METRIC
from retrieval.index.sharding import build_indexes
from trainer.errors import ExportError
from trainer.recipe.recipe import Index as IndexSettings

_STEP = 1.25
"""Ratio between one budget to try and the next."""

_KEY_TO_RAISE = {"annoy": "index.trees", "faiss_hnsw": "index.links", "faiss_ivf": "index.lists"}
"""Recipe key that allows a higher recall, by kind of index."""


def parameter_grid(settings: IndexSettings, item_count: int, seed: int) -> list[dict[str, int]]:
    """Returns the parameters of each index to try, as `build_file` takes them; indexes that cost less come first.

    Args:
        settings: Index settings of the recipe.
        item_count: Number of items of the smallest index.
        seed: Seed of every build.
    """
    match settings.kind:
        case "annoy":
            return [{"trees": trees, "seed": seed} for trees in sorted(settings.trees)]
        case "faiss_hnsw":
            return [
                {"links": links, "ef_construction": settings.ef_construction, "seed": seed}
                for links in sorted(settings.links)
            ]
        case _:
            numbers = settings.lists or (default_lists(item_count),)
            return [{"lists": lists, "seed": seed} for lists in sorted({min(n, item_count) for n in numbers})]


def write_index(
    kind: str,
    parameters: Mapping[str, int],
    vectors: np.ndarray,
    path: Path,
    tell: Tell = lambda step: None,
    shard_count: int = 1,
) -> None:
    """Writes an index file, or one for each shard; see `retrieval.index.sharding.build_indexes`.

    Raises:
        ExportError: The file cannot be written, or the package of this kind is not installed.
    """
    try:
        build_indexes(kind, parameters, vectors, path, shard_count, tell)
    except SearchIndexError as error:
        raise ExportError(str(error)) from error


def build(
    vectors: np.ndarray,
    queries: np.ndarray,
    path: Path,
    *,
    settings: IndexSettings,
    seed: int,
    tell: Tell = lambda step: None,
) -> IndexSpec:
    """Writes the index with the quickest search that reaches the recall of the settings; returns how to search it.

    The time of a search is estimated by `retrieval.index.registry.Index.cost`; of equals, the smaller index wins.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length: held-out queries on which recall is measured.
        path: File to make. With shards, the folders of the shards beside it get a file each.
        settings: Index settings of the recipe: the kind, the parameters to try, the recall to reach, and the shards.
        seed: Seed of every build.
        tell: Called with the name of each step.

    Raises:
        ExportError: The index cannot be written, or no parameters reach the recall.
    """
    exact = recall.exact_top_k(queries, vectors, recall.NEIGHBOURS)
    best: tuple[float, IndexSpec] | None = None
    grid = parameter_grid(settings, len(vectors) // settings.shards, seed)
    candidate = path.with_name(f"{path.name}.candidate")
    candidates = part_paths(candidate, settings.shards)
    for number, parameters in enumerate(grid, 1):
        tell_named = _named(f"index {number} of {len(grid)}: ", tell)
        write_index(settings.file_kind, parameters, vectors, candidate, tell_named, settings.shards)
        index = open_indexes(settings.file_kind, METRIC, candidate, vectors, settings.shards)
        tell_named("measuring recall")
        for budget in budgets(settings.file_kind, parameters, len(vectors) // settings.shards):
            cost = index.cost(recall.NEIGHBOURS, budget)
            if best is not None and cost >= best[0]:
                break
            measured = recall.index_recall(index, queries, exact, budget)
            if measured >= settings.min_recall_at_100:
                best = cost, IndexSpec(settings.file_kind, METRIC, parameters, budget, measured)
                # A rename, not a copy: an index that is open on the old file would crash if it were overwritten.
                for built, target in zip(candidates, part_paths(path, settings.shards), strict=True):
                    built.replace(target)
                break
        for built in candidates:
            built.unlink(missing_ok=True)
    if best is None:
        raise ExportError(
            f"no {settings.file_kind} index of {grid} reaches recall {settings.min_recall_at_100}; "
            f"add larger values to {_KEY_TO_RAISE[settings.kind]}"
        )
    return best[1]


def rebuild(
    vectors: np.ndarray, queries: np.ndarray, path: Path, *, old: IndexSpec, min_recall: float, shard_count: int = 1
) -> IndexSpec:
    """Writes an index of changed vectors with kind, parameters and seed of the old one; returns how to search it.

    The search budget is the old one, raised by a quarter at a time until it reaches the recall. If none does, it is the
    largest one, and the gate ``ann_recall`` will fail.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length: queries on which recall is measured.
        path: File to make.
        old: Specification of the old index: kind, parameters and search budget.
        min_recall: Recall@100 to reach, 0 to 1.
        shard_count: Number of shards, each of which gets an index; 1: one index.

    Raises:
        ExportError: The index cannot be written.
    """
    parameters = dict(old.parameters)
    smallest = len(vectors) // shard_count
    if "lists" in parameters:  # there cannot be more lists than items
        parameters["lists"] = min(parameters["lists"], smallest)
    exact = recall.exact_top_k(queries, vectors, recall.NEIGHBOURS)
    write_index(old.kind, parameters, vectors, path, shard_count=shard_count)
    index = open_indexes(old.kind, METRIC, path, vectors, shard_count)
    larger = [b for b in budgets(old.kind, parameters, smallest) if b > old.search_budget]
    tried = [old.search_budget, *larger]
    results = ((budget, recall.index_recall(index, queries, exact, budget)) for budget in tried)
    budget, measured = next(((b, r) for b, r in results if r >= min_recall), (0, 0.0))
    if not budget:
        budget, measured = tried[-1], recall.index_recall(index, queries, exact, tried[-1])
    return IndexSpec(old.kind, old.metric, parameters, budget, measured)


def budgets(kind: str, parameters: Mapping[str, int], item_count: int) -> list[int]:
    """Returns the search budgets to try, each a quarter above the one before; the last one gives the highest recall."""
    match kind:
        case "annoy":  # the last budget inspects every leaf of every tree
            first, last = recall.NEIGHBOURS, max(recall.NEIGHBOURS, 2 * item_count * parameters["trees"])
        case _ if kind.startswith("faiss_hnsw"):
            first, last = recall.NEIGHBOURS, max(recall.NEIGHBOURS, item_count)
        case _:
            first, last = 1, parameters["lists"]
    count = math.ceil(math.log(last / first, _STEP)) if last > first else 0
    return sorted({int(first * _STEP**step) for step in range(count)} | {last})


def _named(name: str, tell: Tell) -> Tell:
    return lambda step: tell(name + step)
