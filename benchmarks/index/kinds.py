"""Compares the kinds of index with each other and with other libraries: ``python -m benchmarks.index.kinds``.

Searches run on one thread, one query at a time. All indexes are built first and then searched alternately, query by
query.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.index.peers import Peer, build_hnswlib, build_milvus_lite, build_qdrant, build_qdrant_local
from benchmarks.timing import Timing, alternate, print_table
from retrieval.index.build import build_file
from retrieval.index.recall import exact_top_k, index_recall
from retrieval.index.registry import METRIC, STRUCTURES, open_index
from retrieval.index.scan import scan
from testbed.synthetic_vectors import Data, make_data, read_bundle
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

_K = 100
_PEERS = {
    "hnswlib": build_hnswlib,
    "qdrant": build_qdrant,
    "qdrant_local": build_qdrant_local,
    "milvus_lite": build_milvus_lite,
}
_USUAL_PEERS = ["hnswlib", "qdrant"]


@dataclass(frozen=True)
class Result:
    """Measurements of one contender on one data set.

    Attributes:
        data: Name of the data set.
        item_count: Number of items.
        contender: Name of the contender.
        budget: Smallest tried search budget that reaches the recall.
        recall: Recall@100 at that budget, 0 to 1.
        timing: Time of one search.
        bytes_per_item: Size of the index file per item, in bytes, without the vectors.
        build_s: Time of the build in seconds.
        open_ms: Time to map and check the file from the page cache, in milliseconds; 0 for another library.
    """

    data: str
    item_count: int
    contender: str
    budget: int
    recall: float
    timing: Timing
    bytes_per_item: float
    build_s: float
    open_ms: float


def main() -> None:
    """Runs the measurements with the command line's arguments, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000], help="sizes of synthetic data sets")
    parser.add_argument("--store", type=Path, help="store whose live bundle is measured too")
    parser.add_argument("--kinds", nargs="*", default=STRUCTURES, choices=STRUCTURES)
    parser.add_argument("--peers", nargs="*", default=_USUAL_PEERS, choices=list(_PEERS))
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="JSON file to write all figures to")
    arguments = parser.parse_args()
    data_sets = [make_data(count) for count in arguments.items]
    if arguments.store:
        data_sets.append(read_bundle(arguments.store))
    results: list[Result] = []
    for data in data_sets:
        with tempfile.TemporaryDirectory() as folder:
            results += measure(data, Path(folder), arguments)
        show(data.name, [result for result in results if result.data == data.name])
    if len(arguments.items) > 1:
        show_growth([result for result in results if result.data.startswith("made")])
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def measure(data: Data, folder: Path, arguments: argparse.Namespace) -> list[Result]:
    """Returns a result for each contender that reaches the recall, the exact scan first.

    Args:
        data: vectors and queries.
        folder: folder for the index files.
        arguments: arguments of the command line.
    """
    exact = exact_top_k(data.queries, data.vectors, _K)
    contenders: list[tuple[str, int, float, float, float, float]] = [("exact scan", 0, 1.0, 0.0, 0.0, 0.0)]
    searches: dict[str, Callable[[int], object]] = {"exact scan": lambda n: scan(data.vectors, _query(data, n), _K)}
    for kind in arguments.kinds:
        settings = Index(kind=kind, trees=(arguments.trees,), links=(16,))
        parameters = index_selection.parameter_grid(settings, len(data.vectors), 1)[0]
        path = folder / kind
        started = time.perf_counter()
        build_file(kind, parameters, data.vectors, path)
        build_s = time.perf_counter() - started
        path.read_bytes()  # fills the page cache, as a service does when it hashes the file
        started = time.perf_counter()
        opened = open_index(kind, METRIC, path, data.vectors)
        open_ms = (time.perf_counter() - started) * 1e3
        name = f"{kind}, {next(iter(parameters))} {next(iter(parameters.values()))}"
        for budget in index_selection.budgets(kind, parameters, len(data.vectors)):
            recall = index_recall(opened, data.queries, exact, budget)
            if recall >= arguments.recall:
                size = path.stat().st_size / len(data.vectors)
                contenders.append((name, budget, recall, size, build_s, open_ms))
                searches[name] = lambda n, o=opened, b=budget: o.search(_query(data, n), _K, b)
                break
    for peer in (_PEERS[name](data.vectors, folder) for name in arguments.peers):
        for budget in peer.budgets:
            recall = _peer_recall(peer, data, exact, budget)
            if recall >= arguments.recall:
                contenders.append((peer.name, budget, recall, peer.bytes_per_item, peer.build_s, 0.0))
                searches[peer.name] = lambda n, p=peer, b=budget: p.search(_query(data, n), _K, b)
                break
    timings = alternate(searches, arguments.rounds)
    return [
        Result(data.name, len(data.vectors), name, budget, recall, timings[name], size, build_s, open_ms)
        for name, budget, recall, size, build_s, open_ms in contenders
    ]


def show(title: str, results: list[Result]) -> None:
    """Prints a table with a row for each result."""
    rows = [
        [
            result.contender,
            f"{result.budget:,}" if result.budget else "",
            f"{result.recall:.3f}",
            str(result.timing),
            f"{result.bytes_per_item:,.0f}",
            f"{result.build_s:,.1f}",
            f"{result.open_ms:,.1f}" if result.open_ms else "",
        ]
        for result in results
    ]
    head = ["index", "budget", "recall@100", "us a search (quartiles)", "bytes an item", "build s", "open ms"]
    print_table(title, head, rows)


def show_growth(results: list[Result]) -> None:
    """Prints for each contender the growth exponent of search time; see `benchmarks.index.plots.exponent`."""
    rows: list[list[str]] = []
    for family in dict.fromkeys(result.contender.split(",")[0] for result in results):
        own = [result for result in results if result.contender.split(",")[0] == family]
        if len(own) > 1:
            counts, times = zip(*((result.item_count, result.timing.median) for result in own), strict=True)
            slope = np.polyfit(np.log(counts), np.log(times), 1)[0]
            rows.append([family, f"{min(counts):,} to {max(counts):,}", f"{slope:.2f}"])
    print_table("growth of the time of a search", ["index", "items", "exponent"], rows)


def _query(data: Data, number: int) -> np.ndarray:
    position = number % len(data.queries)
    return data.queries[position : position + 1]  # [1, dim]


def _peer_recall(peer: Peer, data: Data, exact: np.ndarray, budget: int) -> float:
    hits = sum(
        len(set(peer.search(_query(data, number), _K, budget)) & set(nearest))
        for number, nearest in enumerate(exact.tolist())
    )
    return hits / exact.size


if __name__ == "__main__":
    main()
