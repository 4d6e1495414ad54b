"""Tail latency of query towers at half load, with and without pinned workers.

```console
$ python -m benchmarks.services.tail --store STORE
```

ghz sends the same load to each service in turn: first a closed loop, then a steady rate of half the throughput that the
closed loop reached in this round (a shared host may reach half as much in one round as in another). The services are a
query tower of one process on a core of its own; an echo service, set up in the same way, which shows the tail of gRPC,
ghz and the machine; and a query tower of two workers that share all cores with ghz, with ``--pin`` and with
``--no-pin``.

Calls of the first half second do not count, because ghz opens its connections then. The garbage collector of ghz is
off, because it would stop ghz for milliseconds and then send all calls that are due at once. A shared host that pauses
a core has the same effect; it is part of the tail of the echo service too, so compare with that.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToJson

from benchmarks.loadtest.ghz import ROOT, Run, execute
from benchmarks.services.load import one_core, other_cores
from benchmarks.timing import print_table, spread
from retrieval.store.folder_store import FolderStore
from testbed.requests import make_requests
from testbed.services import Replica

_OURS = ("-m", "query_tower_service")
_VARIANTS = {
    "1 process on a core": (_OURS, "1"),
    "the same, echo": (("-m", "benchmarks.services.echo"), "1"),
    "2 workers, --pin": ((*_OURS, "--pin"), "2"),
    "2 workers, --no-pin": ((*_OURS, "--no-pin"), "2"),
}
_COLUMNS = {
    "closed loop, calls/s": ",.0f",
    "median ms": ".2f",
    "p99 ms": ".2f",
    "p99 / median": ".1f",
}
_WARM_UP_S = 0.5


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.tail", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, required=True, help="store whose live bundle is served")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round in seconds (default: 4)")
    parser.add_argument(
        "--ghz", type=Path, default=ROOT / ".tools/bin/ghz", help="path of ghz (default: the one of make ghz)"
    )
    arguments = parser.parse_args()
    store = FolderStore(arguments.store.resolve())
    requests = make_requests(store, store.live_version())["embed-single"]
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        written = ",".join(MessageToJson(request) for request in requests)
        (folder / "data" / "embed-single.json").write_text(f"[{written}]", encoding="utf-8")
        services: dict[str, Replica] = {}
        os.environ["GOGC"] = "off"
        try:
            for number, (variant, (program, workers)) in enumerate(_VARIANTS.items()):
                services[variant] = _start(store, folder / str(number), program, workers)
            found = _take_turns(services, folder, arguments)
        finally:
            for service in services.values():
                service.stop()
    _print(found)
    return 0


def _start(store: FolderStore, folder: Path, program: tuple[str, ...], workers: str) -> Replica:
    flags = {"workers": workers, "max-in-flight": "1000", "drain-delay-s": "0"}
    service = Replica("query_tower_service", store.root, folder, flags, program)
    with one_core() if workers == "1" else contextlib.nullcontext():
        service.start()
    service.wait_until_serving()
    return service


def _take_turns(services: dict[str, Replica], folder: Path, arguments: Any) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {variant: {name: [] for name in _COLUMNS} for variant in services}
    for _ in range(arguments.rounds):
        for variant, service in services.items():
            run = Run(service.address, folder, arguments.seconds, 1.0, None, warm_up_s=_WARM_UP_S)
            with contextlib.nullcontext() if service.flags["workers"] == "2" else other_cores():
                reached = execute(arguments.ghz, "embed-single", run)["rps"]
                even = dataclasses.replace(run, rate=reached / 2)
                details = execute(arguments.ghz, "embed-constant", even)["details"]
            middle, tail = np.percentile([each["latency"] / 1e6 for each in details], [50, 99])
            for name, figure in zip(_COLUMNS, (reached, middle, tail, tail / middle), strict=True):
                found[variant][name].append(float(figure))
    return found


def _print(found: dict[str, dict[str, list[float]]]) -> None:
    rows = [
        [variant, *(spread(of, _COLUMNS[name]) for name, of in series.items())] for variant, series in found.items()
    ]
    print_table(
        "EmbedQueries of 1 query: a closed loop, then half of its rate, evenly", ["query tower", *_COLUMNS], rows
    )


if __name__ == "__main__":
    sys.exit(main())
