"""What each step of an EmbedQueries costs the answering thread: ``python -m bench.serve_profile --store STORE``.

CPU time of one thread in this process, medians, caches warm: between two calls a busy service runs other code, so there
each step costs more. `bench.serve` measures the whole.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundle.canaries import Canaries
from bundle.errors import BundleError
from bundle.manifest import CANARIES
from bundle.store import BundleStore
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loading import ModelLoader
from query_tower_service.servicer import to_response
from query_tower_service.text import TextMetrics
from query_tower_service.validation import read_columns
from serving.metrics import Metrics
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower_client.query_tower import to_request

_CALLS = 2000


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="bench.serve_profile", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="of bundles; its live one is measured")
    arguments = parser.parse_args()
    store = BundleStore(arguments.store)
    try:
        version = store.live_version()
    except BundleError as error:
        print(f"bench.serve_profile: {error}", file=sys.stderr)
        return 1
    loader = ModelLoader(store, QueryTowerConfig(store=store.root), TextMetrics(Metrics().registry))
    model = loader.open(version, ())
    canaries = Canaries.read(store.path(version) / CANARIES)
    columns = canaries.columns
    queries = [{n: columns[n][row] for n in columns if columns[n][row] is not None} for row in range(len(canaries))]
    sizes = (1, 32)
    steps = [_measure(model.tower, (queries * 32)[:size]) for size in sizes]
    print("| step | " + " | ".join(f"{size} quer{'y' if size == 1 else 'ies'}, µs" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name in steps[0]:
        print(f"| {name} | " + " | ".join(f"{found[name]:.1f}" for found in steps) + " |")
    return 0


def _measure(tower: Any, queries: list[Any]) -> dict[str, float]:
    request = to_request(queries, "")
    raw, count = request.SerializeToString(), len(queries)
    columns = read_columns(request.queries, tower.schema)
    embeddings = tower.embed(columns, count)
    response = to_response(embeddings, "m")
    embed_us = _median_us(lambda: tower.embed(columns, count))
    encode_us = _median_us(lambda: tower.schema.encode(columns, count))
    found = {
        "parse the request": _median_us(lambda: pb.EmbedQueriesRequest.FromString(raw)),
        "validate, message to columns": _median_us(lambda: read_columns(request.queries, tower.schema)),
        "encode, columns to arrays": encode_us,
        "run the tower": embed_us - encode_us,
        "make the response": _median_us(lambda: to_response(embeddings, "m")),
        "serialise the response": _median_us(response.SerializeToString),
    }
    return {**found, "all": sum(found.values())}


def _median_us(action: Callable[[], object]) -> float:
    for _ in range(50):
        action()
    taken: list[int] = []
    for _ in range(_CALLS):
        began = time.thread_time_ns()
        action()
        taken.append(time.thread_time_ns() - began)
    return statistics.median(taken) / 1000


if __name__ == "__main__":
    sys.exit(main())
