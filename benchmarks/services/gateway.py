"""Cost of Envoy in front of both services: the same retrieve without it, through it, and through it as JSON.

```console
$ python -m benchmarks.services.gateway --store STORE
```

One caller sends the golden queries of the live bundle one after another, in the three ways in turn, so each figure is a
latency without waiting. A retrieve is two calls.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.json_format import MessageToDict

from benchmarks.timing import alternate, print_table
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES
from retrieval.store.folder_store import FolderStore
from testbed.gateway.envoy import Gateway
from testbed.services import Pair
from two_tower_client import Retriever, query_tower

_K = 10


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="store whose live bundle is served")
    parser.add_argument("--rounds", type=int, default=1000, help="retrieves in each way (default: 1000)")
    arguments = parser.parse_args()
    store = FolderStore(arguments.store)
    golden = GoldenQueries.read(store.path(store.live_version()) / GOLDEN_QUERIES)
    queries = [
        {name: column[row] for name, column in golden.columns.items() if column[row] is not None}
        for row in range(len(golden))
    ]
    bodies = [json.dumps(MessageToDict(query_tower.to_request([query], ""))) for query in queries]
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(arguments.store, Path(folder))
        with pair, Gateway(Path(folder) / "envoy", pair) as gateway:
            addresses = pair.query_towers[0].address, pair.anns[0].address
            with (
                Retriever(*addresses, timeout_s=10.0) as direct,
                Retriever(gateway.address, gateway.address, timeout_s=10.0, check_health=False) as through,
            ):
                json_connection = http.client.HTTPConnection(gateway.address, timeout=10.0)
                ways = {
                    "without Envoy": lambda number: direct.retrieve(queries[number % len(queries)], _K),
                    "through Envoy": lambda number: through.retrieve(queries[number % len(queries)], _K),
                    "through Envoy, as JSON": lambda number: _retrieve(json_connection, bodies[number % len(bodies)]),
                }
                cpu_s = _cpu_s(gateway)
                timings = alternate(ways, arguments.rounds)
                cpu_s = _cpu_s(gateway) - cpu_s
    print_table(
        "A retrieve", ["way", "µs: median (quartiles)"], [[way, str(timing)] for way, timing in timings.items()]
    )
    calls = 2 * 2 * (arguments.rounds + 1)
    print(f"\nCPU of Envoy: {cpu_s / calls * 1e6:.0f} µs a call, over both forms and its health checks")
    return 0


def _retrieve(connection: http.client.HTTPConnection, body: str) -> Any:
    """Returns the answer of a search with the embedding of a query, both as JSON."""
    embedded = _post(connection, "/v1/queries:embed", body)
    search = {"embedding": embedded["embeddings"][0], "k": _K}
    request = {"model_version": embedded["model_version"], "searches": [search]}
    return _post(connection, "/v1/items:search", json.dumps(request))


def _post(connection: http.client.HTTPConnection, path: str, body: str) -> Any:
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {content['message']}")
    return content


def _cpu_s(gateway: Gateway) -> float:
    times = psutil.Process(gateway.pid).cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    sys.exit(main())
