"""Compares the ANN service with Weaviate: searches per second, their times and CPU time, at the same recall.

```console
$ make weaviate
$ python -m benchmarks.services.weaviate --store store
```

Both have the same clustered synthetic vectors, and the smallest search budget that reaches the recall on other queries
than those of the measurement. A process calls each by its own Python client, with threads in a closed loop; the ANN
service by single calls, and by calls that its callers share. Services and callers compete for the same cores. All take
turns; ratios are those within a round.

Everything runs in a namespace of its own, whose network is loopback alone, because Weaviate's ports listen on all
interfaces. Its processes end with it, whatever happens. This needs `unshare` and `setpriv` of Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pair.load import cpu_s, family
from benchmarks.services.weaviate.contender import Caller, Contender, environment, to_rows
from benchmarks.services.weaviate.server import GRPC_PORT, HTTP_PORT, PROGRAM, WeaviateServer
from benchmarks.timing import print_table
from retrieval.index.recall import NEIGHBOURS, exact_top_k
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import make_of
from testbed.movielens import copy_or_train
from testbed.services import ROOT, Replica, wait_until
from testbed.synthetic_bundles import copy_live
from testbed.synthetic_vectors import Data, make_data
from trainer.recipe.recipe import Index

_PYTHON = ROOT / ".tools" / "weaviate-client" / "bin" / "python"
_NAMESPACE = [
    *("setpriv", "--pdeathsig", "KILL"),  # if this process ends, so does `unshare`, and with it all in the namespace
    *("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
]
_TUNED_ON, _MEASURED = 400, 1000
_BUDGETS = (100, 125, 156, 195, 244, 305, 381, 476)
_FILL_S, _QUIET_S, _LONGEST_S = 1200, 120, 7200


def main() -> int:
    """Runs the measurements with the command line's arguments, and returns 0, or the exit code of what failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.weaviate", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="store whose live bundle has a query tower (default: train)")
    parser.add_argument("--items", type=int, default=100_000, help="number of items (default: 100,000)")
    parser.add_argument("--recall", type=float, default=0.99, help="recall@100 of all (default: 0.99)")
    parser.add_argument(
        "--kinds", nargs="*", default=["faiss_hnsw", "faiss_ivf", "annoy"], help="kinds of index of the ANN service"
    )
    parser.add_argument("--connections", type=int, default=32, help="maxConnections of Weaviate's graph (default: 32)")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 64], help="callers (default: 1 8 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round in seconds (default: 3)")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set inside the namespace
    arguments = parser.parse_args()
    if arguments.folder is not None:
        with ExitStack() as running:
            _run(arguments, running)
        return 0
    if not PROGRAM.exists() or not _PYTHON.exists():
        parser.error("Weaviate or its Python client is missing; run `make weaviate`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        copy_or_train(arguments.store, folder, FolderStore(folder / "store"))
        command = [sys.executable, "-m", "benchmarks.services.weaviate", *sys.argv[1:], "--folder", temporary]
        inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
        return subprocess.run([*_NAMESPACE, *inside], check=False, timeout=_LONGEST_S).returncode


def _run(arguments: argparse.Namespace, running: ExitStack) -> None:
    folder, base = arguments.folder, FolderStore(arguments.folder / "store")
    dimension = base.manifest(base.live_version()).dimension
    data = make_data(arguments.items, _TUNED_ON + _MEASURED, dimension=dimension)
    nearest = exact_top_k(data.queries, data.vectors, NEIGHBOURS)
    for name, values in (("vectors", data.vectors), ("queries", data.queries)):
        values.astype(np.float32).tofile(folder / name)
    asked = ["--queries", str(folder / "queries"), "--dimension", str(dimension), "--k", str(NEIGHBOURS)]
    peer = _start_weaviate(arguments, asked, nearest, running)
    contenders = [peer]
    for kind in arguments.kinds:
        contenders += _start_ann(kind, base, data, arguments, asked, running)
    for each in contenders:
        for callers in arguments.callers:
            found = each.caller.ask({"rows": [_TUNED_ON, _TUNED_ON + _MEASURED], "callers": callers})
            each.recall[callers] = share_found(found, nearest[_TUNED_ON:].tolist())
    _wait_until_quiet(peer.pids)
    _note(f"load average {' '.join(f'{value:.1f}' for value in os.getloadavg())}")
    for number in range(arguments.rounds):
        for callers in arguments.callers:
            for each in contenders if number % 2 else contenders[::-1]:
                each.measure(callers, arguments.seconds)
        _note(f"round {number + 1}: load average {' '.join(f'{value:.1f}' for value in os.getloadavg())}")
    head = ["callers", "", "recall@100", "searches/s", "x Weaviate", "median, ms", "p99, ms", "server, CPU µs"]
    head += ["caller, CPU µs", "CPU of both, x Weaviate"]
    print_table(f"{arguments.items:,} x {dimension}, k = {NEIGHBOURS}", head, to_rows(contenders, peer))
    if arguments.json:
        figures = {
            each.name: {
                "recall": each.recall,
                "rounds": {callers: [vars(one) for one in rounds] for callers, rounds in each.rounds.items()},
            }
            for each in contenders
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def _start_weaviate(
    arguments: argparse.Namespace, asked: Sequence[str], nearest: np.ndarray, running: ExitStack
) -> Contender:
    """Fills Weaviate, and sets the smallest budget that reaches the recall."""
    folder = arguments.folder
    server = running.enter_context(WeaviateServer(folder / "weaviate"))
    ports = ["--http-port", str(HTTP_PORT), "--grpc-port", str(GRPC_PORT)]

    def set_up(*command: str) -> None:
        run = [str(_PYTHON), "-m", "benchmarks.services.weaviate.collection", *ports, *command]
        subprocess.run(run, cwd=ROOT, env=environment(), check=True, timeout=_FILL_S)

    began, cpu_began = time.monotonic(), cpu_s([server.pid])
    dimension, connections = asked[asked.index("--dimension") + 1], str(arguments.connections)
    set_up("fill", "--vectors", str(folder / "vectors"), "--dimension", dimension, "--connections", connections)
    _note(f"Weaviate filled in {time.monotonic() - began:.0f} s, {cpu_s([server.pid]) - cpu_began:.0f} s of CPU")
    caller = running.enter_context(Caller(_PYTHON, [*asked, "weaviate", *ports]))
    for ef in _BUDGETS:
        set_up("ef", str(ef))
        found = share_found(caller.ask({"rows": [0, _TUNED_ON], "callers": 1}), nearest[:_TUNED_ON].tolist())
        _note(f"Weaviate, maxConnections {connections}, ef {ef}: recall {found:.4f}")
        if found >= arguments.recall:
            return Contender(f"Weaviate, maxConnections {connections}, ef {ef}", caller, [server.pid])
    raise SystemExit(f"Weaviate does not reach recall {arguments.recall} with ef {_BUDGETS[-1]}; lower --recall")


def _start_ann(
    kind: str, base: FolderStore, data: Data, arguments: argparse.Namespace, asked: Sequence[str], running: ExitStack
) -> list[Contender]:
    """Builds an index, and starts an ANN service over it and two callers: of single calls, and of shared ones."""
    store = FolderStore(arguments.folder / kind)
    settings: Any = {"kind": kind, "trees": (50,), "links": (16,), "min_recall_at_100": arguments.recall}
    tuned_on = Data(data.name, data.vectors, data.queries[:_TUNED_ON])
    made = make_of(store, copy_live(base, store), tuned_on, Index(**settings))
    flags = {"max-in-flight": "1000", "drain-delay-s": "0"}
    replica = Replica("ann_service", store.root, arguments.folder / f"{kind}-service", flags)
    running.callback(replica.stop)
    replica.start()
    replica.wait_until_serving()
    assert replica.process is not None
    pids = family(replica.process.pid)
    budget = made.manifest.index.search_budget
    _note(f"{kind}, budget {budget}: recall {made.recall:.4f}")
    options = [*asked, "ann", "--address", replica.address, "--model-version", made.manifest.model_version]
    return [
        Contender(f"{kind}, budget {budget}, {name}", running.enter_context(Caller(sys.executable, own)), pids)
        for name, own in (("single calls", options), ("shared calls", [*options, "--coalesce"]))
    ]


def _wait_until_quiet(pids: Sequence[int]) -> None:
    """Waits until processes use less than a tenth of a core, because Weaviate tidies up after it is filled."""

    def is_quiet() -> bool:
        before = cpu_s(pids)
        time.sleep(2)
        return cpu_s(pids) - before < 0.2

    wait_until(is_quiet, "Weaviate to become quiet", _QUIET_S)


def share_found(found: Sequence[Sequence[int]], nearest: Sequence[Sequence[int]]) -> float:
    """Returns the recall: the share of the exact nearest items that was found, as a mean over queries.

    Args:
        found: [n] rows of the items that were found, for each query.
        nearest: [n, k] rows of the exact nearest items.
    """
    shares = [len(set(own) & set(exact)) / len(exact) for own, exact in zip(found, nearest, strict=True)]
    return sum(shares) / len(shares)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
