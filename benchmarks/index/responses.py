"""Compares the response writer with generated messages alone: ``python -m benchmarks.index.responses``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.responses import build_steps
from benchmarks.timing import print_table
from retrieval.bundle.catalogue.items import IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.bundle.catalogue.string_table import Strings
from retrieval.index.hits import Hits
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb

_ATTRIBUTES = ("title", "genres", "year")
_CASES = ((1, 10, ()), (1, 10, _ATTRIBUTES), (100, 100, ()), (100, 100, _ATTRIBUTES), (1000, 1000, _ATTRIBUTES))


def main() -> None:
    """Prints the CPU time of responses to calls of several sizes."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.responses", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    catalogue = _make_catalogue(arguments.items)
    rows = [_measure(catalogue, *case, arguments.rounds) for case in _CASES]
    head = ["searches", "k", "attributes", "generated messages ms", "as served ms", "longest step ms"]
    print_table(f"{arguments.items:,} items, least CPU time of {arguments.rounds} rounds", head, rows)


def _make_catalogue(item_count: int) -> Catalogue:
    generator = np.random.default_rng(3)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 6, item_count))])
    titles = Strings.of(f"The title of item {row} (1990)" for row in range(item_count))
    genres = Strings.of(f"genre-{number}" for number in range(20))
    attributes = {
        "title": StringColumn(np.arange(item_count, dtype=np.int32), titles),
        "genres": StringListColumn(generator.integers(0, 20, offsets[-1]).astype(np.int32), offsets, genres),
        "year": IntColumn(generator.integers(1900, 2026, item_count), generator.random(item_count) < 0.95),
    }
    manifest: Any = SimpleNamespace(model_version="model", bundle_version="bundle")
    index: Any = None
    items = ItemTable(Strings.of(f"item-{row}" for row in range(item_count)), attributes)
    return Catalogue(manifest, items, np.zeros(0), index)


def _measure(catalogue: Catalogue, searches: int, k: int, attributes: tuple[str, ...], rounds: int) -> list[str]:
    """Returns table cells: the case, the CPU time of both ways, and the longest step of the response writer."""
    no_rows = np.zeros(0, dtype=np.int64)
    plan = SearchPlan(np.zeros(0), k, None, no_rows, None, exact=False, budget=1, return_attributes=attributes)
    generator = np.random.default_rng(5)
    results = [
        Hits(generator.permutation(len(catalogue.items.ids))[:k], np.linspace(1, 0, k, dtype=np.float32))
        for _ in range(searches)
    ]
    plans = [plan] * searches
    generated = _least(lambda: _with_messages(catalogue, plans, results), rounds)
    served = _least(lambda: run_to_end(build_steps(catalogue, plans, results, "model")), rounds)
    steps = build_steps(catalogue, plans, results, "model")
    longest, is_running = 0.0, True
    while is_running:
        started = time.thread_time()
        is_running = next(steps, False) is None
        longest = max(longest, time.thread_time() - started)
    cells = [generated, served, longest * 1e3]
    return [str(searches), str(k), str(len(attributes)), *(f"{cell:,.3f}" for cell in cells)]


def _least(work: Callable[[], object], rounds: int) -> float:
    times: list[float] = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        times.append((time.thread_time() - started) * 1e3)
    return min(times)


def _with_messages(catalogue: Catalogue, plans: Sequence[SearchPlan], results: Sequence[Hits]) -> bytes:
    response = pb.SearchItemsResponse(model_version="model", bundle_version="bundle", newest_model_version="model")
    ids, attributes = catalogue.items.ids, catalogue.items.attributes
    for plan, (rows, scores) in zip(plans, results, strict=True):
        result = response.results.add(item_ids=[ids[row] for row in rows.tolist()], scores=scores.tolist())
        for name in plan.return_attributes:
            values: list[Any] = [attributes[name].at(row) for row in rows.tolist()]
            missing = [position for position, value in enumerate(values) if value is None]
            column = result.attributes.add(name=name, missing=missing)
            if name == "title":
                column.strings.values.extend(value or "" for value in values)
            elif name == "year":
                column.ints.values.extend(value or 0 for value in values)
            else:
                column.string_lists.values.extend(pb.StringColumn(values=value or ()) for value in values)
    return response.SerializeToString()


if __name__ == "__main__":
    main()
