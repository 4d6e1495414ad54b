"""The indexes of all parts of a catalogue, searched as one: the nearest of what each part returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.slicing import bounds_of
from retrieval.bundle.layout import SHARDS
from retrieval.bundle.shard import shard_name
from retrieval.index.hits import Hits
from retrieval.index.registry import Index, open_index
from retrieval.index.scan import best


def part_paths(path: Path, shard_count: int) -> list[Path]:
    """Returns where each part of a catalogue has a file.

    Args:
        path: path of the file in an ordinary bundle.
        shard_count: number of shards; 1: the bundle is an ordinary one.
    """
    if shard_count == 1:
        return [path]
    return [path.parent / SHARDS / shard_name(number) / path.name for number in range(shard_count)]


def open_indexes(kind: str, metric: str, path: Path, vectors: np.ndarray, shard_count: int = 1) -> Index:
    """Returns the index of a bundle, mapped; of a bundle in shards, the indexes of all shards as one.

    Args:
        kind: kind of index, one of `retrieval.index.registry.KINDS`.
        metric: `retrieval.index.registry.METRIC`.
        path: path of the index file in an ordinary bundle; the files themselves are verified.
        vectors: [item_count, dimension] float32, unit length: vectors of the whole catalogue.
        shard_count: number of shards; 1: the bundle is an ordinary one.

    Raises:
        ValueError, OSError, FaissMissing: see `retrieval.index.registry.open_index`.
    """
    if shard_count == 1:
        return open_index(kind, metric, path, vectors)
    bounds = bounds_of(len(vectors), shard_count)
    paths = part_paths(path, shard_count)
    return MergedIndex(
        [open_index(kind, metric, p, vectors[start:stop]) for p, (start, stop) in zip(paths, bounds, strict=True)],
        bounds,
    )


class MergedIndex:
    """Indexes of consecutive parts of a catalogue, as one `retrieval.index.registry.Index`.

    The search budget is that of each part.
    """

    def __init__(self, indexes: Sequence[Index], bounds: Sequence[tuple[int, int]]) -> None:
        """Takes the index of each part, and its first row and last row plus 1."""
        self._parts = list(zip(indexes, bounds, strict=True))

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        """Returns for each query the `k` nearest of the rows that the parts return; see `Index.search`."""
        found = [index.search(queries, min(k, stop - start), budget) for index, (start, stop) in self._parts]
        results: list[Hits] = []
        for hits in zip(*found, strict=True):
            rows = np.concatenate([each.rows + start for each, (_, (start, _)) in zip(hits, self._parts, strict=True)])
            results.append(best(rows, np.concatenate([each.scores for each in hits]), k))
        return results

    def cost(self, k: int, budget: int) -> float:
        """Returns the estimated time of one search of all parts, one after the other; see `Index.cost`."""
        return sum(index.cost(min(k, stop - start), budget) for index, (start, stop) in self._parts)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget of each part for `fetch` hits; see `Index.raise_budget`."""
        return self._parts[0][0].raise_budget(budget, k, fetch)
