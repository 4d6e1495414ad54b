"""What each step of an EmbedQueries costs the answering thread: ``python -m bench.serve_profile --store STORE``.

Wall time of one thread in this process, medians. One call right after another finds caches and branch predictors warm;
one after a pause finds them as a service does that waits for its calls.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bundle.canaries import Canaries
from bundle.errors import BundleError
from bundle.layout import CANARIES
from bundle.store import BundleStore
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loading import Model, ModelLoader
from query_tower_service.servicer import to_response
from query_tower_service.text_metrics import TextMetrics
from serving.metrics import Metrics
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower_client.query_tower import to_request

_CALLS, _WARM_UP = 2000, 50
_PAUSE_S = 0.002
_STEPS = (
    "parse the request",
    "validate and encode, message to arrays",
    "run the tower",
    "make the response",
)


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
    cases = {
        "1 query": (1, 0.0),
        f"1 query, {_PAUSE_S * 1e3:.0f} ms after the last": (1, _PAUSE_S),
        "32 queries": (32, 0.0),
    }
    found = [_measure(model, queries, size, pause_s) for size, pause_s in cases.values()]
    print(f"| step | {' | '.join(f'{name}, µs' for name in cases)} |\n|---|{'---|' * len(cases)}")
    for number, step in enumerate(_STEPS):
        print(f"| {step} | {' | '.join(f'{steps[number]:.1f}' for steps in found)} |")
    print(f"| all | {' | '.join(f'{sum(steps):.1f}' for steps in found)} |")
    return 0


def _measure(model: Model, queries: list[Any], size: int, pause_s: float) -> list[float]:
    """Returns the median of each step in µs, of calls with `size` of the queries each, in turn."""
    tower = model.tower
    raw = [to_request((queries * 32)[at : at + size], "").SerializeToString() for at in range(len(queries))]
    taken: list[list[int]] = []
    for number in range(_CALLS):
        time.sleep(pause_s)
        times = [time.perf_counter_ns()]
        request = pb.EmbedQueriesRequest.FromString(raw[number % len(raw)])
        times.append(time.perf_counter_ns())
        columns = model.reader.read(request.queries)
        times.append(time.perf_counter_ns())
        embeddings = tower.embed(columns, size)
        times.append(time.perf_counter_ns())
        to_response(embeddings, model.version)
        times.append(time.perf_counter_ns())
        taken.append([after - before for before, after in itertools.pairwise(times)])
    return [statistics.median(each) / 1000 for each in zip(*taken[_WARM_UP:], strict=True)]


if __name__ == "__main__":
    sys.exit(main())
