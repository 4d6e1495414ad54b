"""One index beside shards, in one process and on a Ray cluster: ``python -m benchmarks.index.shards``.

Services run as processes, and answer one caller in turn. The nodes of the cluster are processes of this machine, so the
figures show what the shards cost, not what more machines gain. Needs the extra ray.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks.timing import alternate, print_table
from retrieval.index.scan import scan
from retrieval.store.folder_store import FolderStore
from testbed.services import Replica
from testbed.shards.bundles import MODEL, write_catalogue_bundle
from testbed.shards.cluster import ray_cluster
from testbed.synthetic_vectors import Data, make_data
from trainer.recipe.recipe import Index
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc

K = 100
_NODES, _EXACT_QUERIES = 3, 50
_SCORE_TOLERANCE = 1e-5
_LOAD_S = 300.0


@dataclass
class _Figures:
    """What was measured of a contender: exact answers, recall@100, median times of an index search and of a scan."""

    exact: str
    recall: float
    index_us: str = ""
    scan_us: str = ""


def main() -> int:
    """Prints a table, and returns 1 if an answer of shards differs from that of one index, or finds less."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.shards", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--trees", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    data = make_data(arguments.items)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(ray_cluster(_NODES, cpus=-(-arguments.shards // (_NODES - 1))))
        on_ray = {"engine": "ray", "ray-address": cluster.address}
        one, recall = _store(folder / "one", data, Index(trees=(arguments.trees,), min_recall_at_100=0.95))
        settings = Index(trees=(arguments.trees,), min_recall_at_100=recall, shards=arguments.shards)
        sharded, _ = _store(folder / "sharded", data, settings)
        contenders = {
            "one index": (one, {}),
            f"{arguments.shards} shards, one process": (sharded, {}),
            f"{arguments.shards} shards, Ray": (sharded, on_ray),
        }
        searches: dict[str, Callable[[np.ndarray, bool], list[tuple[str, float]]]] = {}
        for number, (name, (store, flags)) in enumerate(contenders.items()):
            replica = Replica("ann_service", store.root, folder / str(number), {"drain-delay-s": "0", **flags})
            stack.callback(replica.stop)
            replica.start()
            replica.wait_until_serving(_LOAD_S)
            stub = ann_grpc.AnnServiceStub(stack.enter_context(grpc.insecure_channel(replica.address)))
            searches[name] = _searcher(stub)
        figures = _measure(data, searches, arguments.rounds)
    head = ["contender", "exact answers", "recall@100", "index, median us (quartiles)", "exact scan, median us"]
    rows = [[name, *map(str, asdict(row).values())] for name, row in figures.items()]
    print_table(f"{arguments.items:,} items, {data.vectors.shape[1]} dimensions, k = {K}, one caller", head, rows)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({name: asdict(row) for name, row in figures.items()}, indent=2) + "\n", encoding="utf-8"
        )
    least = figures["one index"].recall
    wrong = [name for name, row in figures.items() if row.exact != "all equal" or row.recall < least]
    if wrong:
        print(f"not as one index: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _store(root: Path, data: Data, settings: Index) -> tuple[FolderStore, float]:
    """Returns a store with a live bundle, and the recall of its index."""
    store = FolderStore(root)
    return store, write_catalogue_bundle(store, data, settings).index.recall_at_100


def _searcher(stub: ann_grpc.AnnServiceStub) -> Callable[[np.ndarray, bool], list[tuple[str, float]]]:
    """Returns a function from a query, and whether to search exactly, to the ids and scores of the answer."""

    def search(query: np.ndarray, exact: bool) -> list[tuple[str, float]]:
        asked = pb.Search(embedding=pb.Embedding(values=query), k=K, exact=exact)
        response = stub.SearchItems(pb.SearchItemsRequest(searches=[asked], model_version=MODEL), timeout=60)
        result = response.results[0]
        return list(zip(result.item_ids, result.scores, strict=True))

    return search


def _measure(
    data: Data, searches: dict[str, Callable[[np.ndarray, bool], list[tuple[str, float]]]], rounds: int
) -> dict[str, _Figures]:
    """Returns the figures of each contender by name."""
    queries = data.queries
    nearest = scan(data.vectors, queries, K)
    figures: dict[str, _Figures] = {}
    for name, search in searches.items():
        equal, found = 0, 0
        for hits, query in zip(nearest[:_EXACT_QUERIES], queries, strict=False):
            answer = search(query, True)
            # Items whose scores are equal may be in another order.
            equal += np.allclose([score for _, score in answer], hits.scores, rtol=0, atol=_SCORE_TOLERANCE)
        for hits, query in zip(nearest, queries, strict=True):
            found += len({item_id for item_id, _ in search(query, False)} & {f"item-{row}" for row in hits.rows})
        exact = "all equal" if equal == _EXACT_QUERIES else f"{equal} of {_EXACT_QUERIES} equal"
        figures[name] = _Figures(exact, round(found / (K * len(queries)), 4))
    for exact in (False, True):
        contenders = {
            name: lambda number, search=search, exact=exact: search(queries[number % len(queries)], exact)
            for name, search in searches.items()
        }
        for name, timing in alternate(contenders, max(1, rounds // 4) if exact else rounds).items():
            setattr(figures[name], "scan_us" if exact else "index_us", str(timing))
    return figures


if __name__ == "__main__":
    sys.exit(main())
