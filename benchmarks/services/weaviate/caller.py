"""A process that searches, from several threads in a closed loop: each asks again when it has its answer.

It is the same for both systems, and needs the client of the system alone. It reads commands from its standard input,
one JSON object a line, and answers each with one line:

- ``{"load": SECONDS, "callers": N}``: count, seconds, times and CPU time of searches (`Loaded`);
- ``{"rows": [FIRST, LAST], "callers": N}``: rows of the items that these queries find.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

COLLECTION = "Items"
_TIMEOUT_S = 60

Search = Callable[[Sequence[float]], Sequence[Any]]
"""Function from a query, [dimension], to the ids of the nearest items, best first."""


def main() -> int:
    """Opens a connection, answers commands until the end of the standard input, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.weaviate.caller")
    parser.add_argument("--queries", required=True, help="file of [n, dimension] float32")
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--k", type=int, required=True, help="number of items of an answer")
    systems = parser.add_subparsers(dest="system", required=True)
    peer = systems.add_parser("weaviate")
    peer.add_argument("--http-port", type=int, required=True)
    peer.add_argument("--grpc-port", type=int, required=True)
    ours = systems.add_parser("ann")
    ours.add_argument("--address", required=True)
    ours.add_argument("--model-version", required=True)
    ours.add_argument("--coalesce", action="store_true")
    arguments = parser.parse_args()
    queries = read_vectors(arguments.queries, arguments.dimension)
    if arguments.system == "weaviate":
        with open_client(arguments.http_port, arguments.grpc_port) as client:
            _answer_commands(_search_weaviate(client, arguments.k), lambda found: found.int, queries)
    else:
        from two_tower_client import AnnClient, Search

        with AnnClient(arguments.address, timeout_s=_TIMEOUT_S, coalesce=arguments.coalesce) as client:

            def search(query: Sequence[float]) -> Sequence[str]:
                asked = [Search(embedding=query, k=arguments.k)]
                return client.search(asked, model_version=arguments.model_version).retrievals[0].item_ids

            _answer_commands(search, lambda item_id: int(item_id.removeprefix("item-")), queries)
    return 0


def open_client(http_port: int, grpc_port: int) -> Any:
    """Returns a connected client of Weaviate, which is a context."""
    import weaviate
    from weaviate.classes.init import AdditionalConfig, Timeout

    return weaviate.connect_to_local(
        host="127.0.0.1",
        port=http_port,
        grpc_port=grpc_port,
        additional_config=AdditionalConfig(timeout=Timeout(init=_TIMEOUT_S, query=_TIMEOUT_S, insert=_TIMEOUT_S * 2)),
        skip_init_checks=True,  # the checks ask a package index for the newest version of the client
    )


def read_vectors(path: str, dimension: int) -> list[list[float]]:
    """Returns the rows of a file of [n, dimension] float32."""
    numbers = array("f")
    with open(path, "rb") as file:
        numbers.frombytes(file.read())
    return [numbers[start : start + dimension].tolist() for start in range(0, len(numbers), dimension)]


def load(search: Search, queries: Sequence[Sequence[float]], callers: int, seconds: float) -> dict[str, float]:
    """Searches from several threads, each of which makes at least two searches, and returns what was measured.

    Args:
        search: function that makes one search.
        queries: queries, which the callers ask in turn.
        callers: number of threads.
        seconds: length of the loop in seconds.

    Returns:
        ``count`` of searches, ``seconds`` that they took in all, ``median_ms`` and ``p99_ms`` of their times, and
        ``cpu_s``, the CPU time of this process.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    end = began + seconds

    def run(caller: int) -> list[float]:
        times_s: list[float] = []
        asked = time.perf_counter()
        while asked < end or len(times_s) < 2:
            search(queries[(caller + len(times_s) * callers) % len(queries)])
            now = time.perf_counter()
            times_s.append(now - asked)
            asked = now
        return times_s

    with ThreadPoolExecutor(callers) as pool:
        times_s = [each for own in pool.map(run, range(callers)) for each in own]
    percentiles = statistics.quantiles(times_s, n=100)
    return {
        "count": len(times_s),
        "seconds": time.perf_counter() - began,
        "median_ms": percentiles[49] * 1e3,
        "p99_ms": percentiles[98] * 1e3,
        "cpu_s": time.process_time() - cpu_began,
    }


def _search_weaviate(client: Any, k: int) -> Search:
    from weaviate.classes.query import MetadataQuery

    query_of = client.collections.use(COLLECTION).query
    with_distance = MetadataQuery(distance=True)

    def search(query: Sequence[float]) -> Sequence[Any]:
        answer = query_of.near_vector(query, limit=k, return_metadata=with_distance, return_properties=False)
        return [each.uuid for each in answer.objects]

    return search


def _answer_commands(search: Search, to_row: Callable[[Any], int], queries: Sequence[Sequence[float]]) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if "load" in command:
            answer: Any = load(search, queries, command["callers"], command["load"])
        else:
            first, last = command["rows"]
            with ThreadPoolExecutor(command["callers"]) as pool:
                answer = [[to_row(item) for item in found] for found in pool.map(search, queries[first:last])]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
