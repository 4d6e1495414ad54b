"""Compares how FAISS indexes hold the vectors: ``python -m benchmarks.index.storage``.

Searches run on one thread, one query at a time. All indexes of a size are built first, and then searched alternately,
query by query, with the budget at which float32 reaches the recall. Times are those of the processor, which other work
of the machine affects less. Memory is measured in a process of its own for each index, which maps the files as the ANN
service does, and searches with all queries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.timing import Timing, alternate, print_table
from retrieval.index.build import build_file
from retrieval.index.recall import exact_top_k, index_recall
from retrieval.index.registry import METRIC, open_index
from testbed.services import ROOT
from testbed.synthetic_vectors import Data, make_data
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

_K = 100
_STORAGES = ("float32", "float16", "int8")
_VECTORS, _QUERIES = "vectors.npy", "queries.npy"


@dataclass(frozen=True)
class Result:
    """Measurements of one index.

    Attributes:
        item_count: Number of items.
        kind: Kind of index.
        storage: How it holds the vectors.
        budget: Search budget, the same for all storages of a kind.
        recall: Recall@100 at that budget, 0 to 1.
        timing: Processor time of one search.
        file_bytes: Size of the index file per item, in bytes.
        resident_bytes: Memory of the index after all queries, per item, in bytes: its pages of the file, and its own.
        vectors_bytes: Pages of ``vectors.npy`` in memory after all queries, per item, in bytes.
        build_s: Processor time of the build in seconds.
    """

    item_count: int
    kind: str
    storage: str
    budget: int
    recall: float
    timing: Timing
    file_bytes: float
    resident_bytes: float
    vectors_bytes: float
    build_s: float


def main() -> None:
    """Runs the measurements with the command line's arguments, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000], help="sizes of the data sets")
    parser.add_argument("--kinds", nargs="*", default=["faiss_ivf", "faiss_hnsw"], choices=["faiss_ivf", "faiss_hnsw"])
    parser.add_argument("--recall", type=float, default=0.95, help="recall@100 that float32 reaches")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="JSON file to write all figures to")
    parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)  # folder, kind and budget: see `_resident`
    arguments = parser.parse_args()
    if arguments.resident:
        folder, kind, budget = arguments.resident
        print(json.dumps(_resident(Path(folder), kind, int(budget))))
        return
    results: list[Result] = []
    for count in arguments.items:
        data = make_data(count)
        with tempfile.TemporaryDirectory() as folder:
            results += measure(data, Path(folder), arguments)
        show(data.name, [result for result in results if result.item_count == count])
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def measure(data: Data, folder: Path, arguments: argparse.Namespace) -> list[Result]:
    """Returns a result for each kind and storage.

    Args:
        data: vectors and queries.
        folder: folder for the files.
        arguments: arguments of the command line.
    """
    np.save(folder / _VECTORS, data.vectors)
    np.save(folder / _QUERIES, data.queries)
    vectors = np.load(folder / _VECTORS, mmap_mode="r").view(np.ndarray)
    exact = exact_top_k(data.queries, data.vectors, _K)
    found: dict[str, tuple[str, str, int, float, float]] = {}
    searches = {}
    for kind in arguments.kinds:
        budget = 0
        for storage in _STORAGES:
            settings = Index(kind=kind, storage=storage, links=(16,))
            parameters = index_selection.parameter_grid(settings, len(vectors), 1)[0]
            name = settings.file_kind
            started = time.process_time()
            build_file(name, parameters, vectors, folder / name)
            build_s = time.process_time() - started
            opened = open_index(name, METRIC, folder / name, vectors)
            if not budget:
                budgets = index_selection.budgets(name, parameters, len(vectors))
                enough = (b for b in budgets if index_recall(opened, data.queries, exact, b) >= arguments.recall)
                budget = next(enough, budgets[-1])
            found[name] = kind, storage, budget, index_recall(opened, data.queries, exact, budget), build_s
            searches[name] = lambda n, o=opened, b=budget: o.search(_query(data, n), _K, b)
    timings = alternate(searches, arguments.rounds, time.thread_time)
    results: list[Result] = []
    for name, (kind, storage, budget, recall, build_s) in found.items():
        command = [sys.executable, "-m", "benchmarks.index.storage", "--resident", str(folder), name, str(budget)]
        resident, of_vectors = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
        size = (folder / name).stat().st_size
        per_item = (value / len(vectors) for value in (size, resident, of_vectors))
        results.append(Result(len(vectors), kind, storage, budget, recall, timings[name], *per_item, build_s))
    return results


def show(title: str, results: list[Result]) -> None:
    """Prints a table with a row for each result."""
    rows = [
        [
            result.kind,
            result.storage,
            f"{result.budget:,}",
            f"{result.recall:.4f}",
            str(result.timing),
            f"{result.file_bytes:,.0f}",
            f"{result.resident_bytes:,.0f}",
            f"{result.vectors_bytes:,.0f}",
            f"{result.build_s:,.1f}",
        ]
        for result in results
    ]
    head = [
        "index",
        "storage",
        "budget",
        "recall@100",
        "CPU us a search (quartiles)",
        "file",
        "in memory",
        "vectors.npy",
    ]
    print_table(f"{title}; bytes an item", [*head, "build CPU s"], rows)


def _resident(folder: Path, kind: str, budget: int) -> tuple[int, int]:
    """Returns the memory of an index, and of the pages of the vectors, after a search with each query, in bytes."""
    vectors = np.load(folder / _VECTORS, mmap_mode="r").view(np.ndarray)
    queries = np.load(folder / _QUERIES)
    open_index(kind, METRIC, folder / kind, vectors).search(queries[:1], _K, budget)
    before = _anonymous_bytes()
    index = open_index(kind, METRIC, folder / kind, vectors)
    for query in queries:
        index.search(query[np.newaxis], _K, budget)
    pages = _pages()
    return pages.get(kind, 0) + _anonymous_bytes() - before, pages.get(_VECTORS, 0)


def _pages() -> dict[str, int]:
    """Returns the resident bytes of each mapped file of this process, by the name of the file."""
    sizes: dict[str, int] = {}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        cells = line.split()
        if "-" in cells[0] and not cells[0].endswith(":"):
            name = Path(cells[5]).name if len(cells) > 5 else ""
        elif cells[0] == "Rss:" and name:
            sizes[name] = sizes.get(name, 0) + 1024 * int(cells[1])
    return sizes


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _query(data: Data, number: int) -> np.ndarray:
    position = number % len(data.queries)
    return data.queries[position : position + 1]  # [1, dim]


if __name__ == "__main__":
    main()
