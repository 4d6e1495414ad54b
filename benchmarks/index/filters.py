"""Compares filtered searches with an exact scan of the matching items: ``python -m benchmarks.index.filters``.

Also measures searches with excluded items.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ann_service.bitsets import BitsetCache, Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.requests import parse
from ann_service.search import run
from benchmarks.timing import alternate, print_table
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.index.build import build_file
from retrieval.index.recall import exact_top_k, index_recall
from retrieval.index.registry import METRIC, STRUCTURES, open_index
from retrieval.index.scan import scan
from retrieval.steps import run_to_end
from testbed.synthetic_vectors import DIMENSION, make_data
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index
from two_tower.ann.v1 import ann_service_pb2 as pb

_SHARES = (0.5, 0.1, 0.01, 0.001)
_K = 100
_EXCLUDED = 10_000


def main() -> None:
    """Builds an index of each kind and prints two tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.filters", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--kinds", nargs="*", default=STRUCTURES, choices=STRUCTURES)
    arguments = parser.parse_args()
    data = make_data(arguments.items)
    exact = exact_top_k(data.queries, data.vectors, _K)
    filters, exclusions = [], []
    items = ItemTable.of((f"item-{row}" for row in range(len(data.vectors))), {})
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            parameters = index_selection.parameter_grid(
                Index(kind=kind, trees=(50,), links=(16,)), len(data.vectors), 1
            )[0]
            build_file(kind, parameters, data.vectors, path)
            opened = open_index(kind, METRIC, path, data.vectors)
            tried = (
                (b, index_recall(opened, data.queries, exact, b))
                for b in index_selection.budgets(kind, parameters, 10**9)
            )
            budget, unfiltered = next((b, r) for b, r in tried if r >= 0.95)
            manifest: Any = SimpleNamespace(item_count=len(data.vectors), dimension=DIMENSION)
            manifest.index = SimpleNamespace(search_budget=budget)
            catalogue = Catalogue(manifest, items, data.vectors, opened, BitsetCache(64 << 20))
            for how in ("spread evenly", "of a region"):
                for share in _SHARES:
                    row = _measure_filter(catalogue, data.queries, _matches(data.vectors, share, how), arguments.rounds)
                    filters.append([kind, f"{unfiltered:.3f}", f"{how}, {share:.1%}", *row])
            exclusions.append([kind, *_measure_exclusions(catalogue, data.queries, arguments.rounds)])
    head = ["kind", "recall unfiltered", "matching items", "recall", "search us", "scan us", "search / scan"]
    print_table(f"{data.name}, k = {_K}", head, filters)
    head = ["kind", "without us", "10,000 excluded us", "of that, reading the ids us", "search alone, with / without"]
    print_table(f"{data.name}, exclude_item_ids", head, exclusions)


def _matches(vectors: np.ndarray, share: float, how: str) -> Matches:
    """Returns a share of the items: a random sample, or the items with the lowest values in the first dimension.

    Args:
        vectors: [item_count, dim] float32, unit length.
        share: share of the items that match, 0 to 1.
        how: ``spread evenly`` for the random sample, ``of a region`` for the lowest values.
    """
    generator = np.random.default_rng(7)
    value = generator.random(len(vectors)) if how == "spread evenly" else vectors[:, 0]
    return Matches.of(pack(value <= np.quantile(value, share)), len(vectors), with_rows=True)


def _plan(query: np.ndarray, budget: int, allowed: Matches | None, **fields: Any) -> SearchPlan:
    plain = {"excluded": np.zeros(0, dtype=np.int64), "min_score": None, "exact": False}
    return SearchPlan(query, _K, allowed, budget=budget, **{**plain, **fields})


def _measure_filter(catalogue: Catalogue, queries: np.ndarray, allowed: Matches, rounds: int) -> list[str]:
    """Returns table cells: recall, time of a filtered search, time of an exact scan of the matches, and their ratio."""
    rows = allowed.rows
    budget = catalogue.manifest.index.search_budget
    exact = scan(catalogue.vectors, queries, _K, allowed=rows)
    hits = wanted = 0
    for query, (nearest, _) in zip(queries, exact, strict=True):
        rows = run(catalogue, [_plan(query, budget, allowed)])[0].rows
        hits += len(set(rows.tolist()) & set(nearest.tolist()))
        wanted += len(nearest)
    timed = alternate(
        {
            "search": lambda n: run(catalogue, [_plan(queries[n % len(queries)], budget, allowed)]),
            "scan": lambda n: run(catalogue, [_plan(queries[n % len(queries)], budget, allowed, exact=True)]),
        },
        rounds,
    )
    ratio = timed["search"].median / timed["scan"].median
    return [f"{hits / wanted:.3f}", str(timed["search"]), str(timed["scan"]), f"{ratio:.2f}"]


def _measure_exclusions(catalogue: Catalogue, queries: np.ndarray, rounds: int) -> list[str]:
    """Returns table cells: times with and without exclusions, of the whole servicer without gRPC and of the search."""
    chosen = np.random.default_rng(9).choice(len(catalogue.vectors), _EXCLUDED, replace=False)
    ids = [catalogue.items.ids[int(row)] for row in chosen]
    excluded = np.sort(chosen)
    budget = catalogue.manifest.index.search_budget
    requests = {
        name: [
            pb.SearchItemsRequest(
                searches=[pb.Search(embedding=pb.Embedding(values=q), k=_K, exclude_item_ids=out)]
            ).SerializeToString()
            for q in queries.tolist()
        ]
        for name, out in (("without", []), ("with", ids))
    }

    def serve(name: str, number: int) -> None:
        request = pb.SearchItemsRequest.FromString(requests[name][number % len(queries)])
        run(catalogue, run_to_end(parse(request.searches, catalogue, 1000)))

    timed = alternate(
        {
            "without": lambda n: serve("without", n),
            "with": lambda n: serve("with", n),
            "ids": lambda n: catalogue.items.ids.find(ids),
        },
        rounds,
    )
    # Measured separately, because parsing the ids evicts the index from the processor's caches.
    timed |= alternate(
        {
            "search": lambda n: run(catalogue, [_plan(queries[n % len(queries)], budget, None)]),
            "search with": lambda n: run(
                catalogue, [_plan(queries[n % len(queries)], budget, None, excluded=excluded)]
            ),
        },
        rounds,
    )
    ratio = timed["search with"].median / timed["search"].median
    return [str(timed["without"]), str(timed["with"]), str(timed["ids"]), f"{ratio:.2f}"]


if __name__ == "__main__":
    main()
