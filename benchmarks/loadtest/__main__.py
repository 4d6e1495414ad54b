"""`make load-test`: runs ghz against both services with a real bundle, and checks the results against thresholds.

Prints a table, writes an HTML page, and exits with 1 if a threshold is missed, with 2 if the load test could not run.
Serves a copy of the live bundle of ``--store``, or trains a bundle. ``--slow-ms 20`` makes every handler sleep, to
check that the load test fails then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.loadtest import limits, page
from benchmarks.loadtest.ghz import ROOT, GhzError, Run, execute, read_config
from benchmarks.loadtest.judge import Outcome, Threshold, judge, read_thresholds, steps, to_table
from retrieval.bundle.errors import BundleError
from retrieval.serving.runtime.logs import configure_logs
from retrieval.store.folder_store import FolderStore
from testbed.movielens import copy_or_train, print_heading
from testbed.requests import make_requests, write_requests
from testbed.rollout import wait_for_live
from testbed.services import SERVICES, Pair, PairError, Replica
from testbed.synthetic_bundles import write_large_bundle
from two_tower_client.fleet import Fleet

_THRESHOLDS = Path(__file__).parent / "thresholds.toml"
_SWAP_ITEMS = 20_000
"""Number of items of the synthetic bundle that is promoted in the middle of a run."""


@dataclass(frozen=True)
class Scale:
    """Size of a load test.

    Attributes:
        run_s: Length of the run of a configuration, in seconds.
        step_s: Length of a step of a stepped load, in seconds.
        limit_s: Length of each measurement in process, in seconds.
        epochs: Number of epochs of the training if no store is given.
        judges_tails: Whether the thresholds of the 99th percentile are checked.
    """

    run_s: float
    step_s: float
    limit_s: float
    epochs: int
    judges_tails: bool


FULL = Scale(15.0, 4.0, 2.0, 5, True)
SHORT = Scale(3.0, 1.0, 0.5, 1, False)


def main() -> int:
    """Runs the load test with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.loadtest", description=__doc__)
    parser.add_argument("--store", type=Path, help="store whose live bundle is tested (default: train one)")
    parser.add_argument("--short", action="store_true", help="3 seconds per configuration instead of 15, for CI")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/load-test"), help="folder for the page, requests and reports"
    )
    parser.add_argument(
        "--ghz", type=Path, default=ROOT / ".tools/bin/ghz", help="path of ghz (default: the one of make ghz)"
    )
    parser.add_argument("--workers", default="1", help="workers of each service, a number or auto (default: 1)")
    parser.add_argument("--slow-ms", type=float, default=0, help="time that every handler sleeps (default: 0)")
    parser.add_argument("--only", action="append", help="name of a configuration to run; repeatable (default: all)")
    arguments = parser.parse_args()
    if not arguments.ghz.exists():
        print(f"load-test: there is no {arguments.ghz}; run `make ghz`, or name one with --ghz", file=sys.stderr)
        return 2
    configure_logs("error")  # the servicers that are measured in this process would log each load
    try:
        outcomes = run(arguments, SHORT if arguments.short else FULL)
    except (GhzError, PairError, BundleError) as error:
        print(f"load-test: {error}", file=sys.stderr)
        return 2
    return 1 if any(outcome.misses for outcome in outcomes) else 0


def run(arguments: argparse.Namespace, scale: Scale) -> Sequence[Outcome]:
    """Runs the configurations against services on a copy of the store, and returns an outcome for each, in order.

    Args:
        arguments: arguments of the command line.
        scale: size of the load test.

    Raises:
        GhzError: ghz could not run.
        BundleNotFound: no bundle is live in the store.
    """
    with tempfile.TemporaryDirectory(prefix="two-tower-load-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        version = copy_or_train(arguments.store, folder, store, scale.epochs)
        other = write_large_bundle(store, version, _SWAP_ITEMS, seed=1).bundle_version
        requests = make_requests(store, version)
        write_requests(requests, arguments.out / "data")
        print_heading("What the servicers answer in this process, requests a second")
        in_process = limits.measure(store, requests, scale.limit_s)
        print("  ".join(f"{name} {rate:,.0f}" for name, rate in in_process.items()))
        print_heading("Under load")
        slowed = {
            s: ("-m", "benchmarks.loadtest.slowed", f"{arguments.slow_ms:g}", s) for s in SERVICES if arguments.slow_ms
        }
        # A long queue for the stepped loads, which are to measure latency rather than the number of refused calls.
        flags = {"workers": arguments.workers, "max-in-flight": "10000"}
        outcomes: list[Outcome] = []
        curves: dict[str, list[tuple[float, float, float]]] = {}
        with Pair(store.root, folder / "logs", flags=flags, programs=slowed) as pair:
            for name, threshold in read_thresholds(_THRESHOLDS).items():
                if not scale.judges_tails:
                    threshold = replace(threshold, p99_ms=None, p99_of_p50=None)
                config = read_config(name)
                file = config["data-file"].removesuffix(".json")
                if file not in requests or name not in (arguments.only or [name]):
                    continue
                replica = (pair.query_towers if file.startswith("embed") else pair.anns)[0]
                rate = offered(threshold, outcomes)
                completed = Run(replica.address, arguments.out, scale.run_s, scale.step_s, rate)
                if threshold.swap:
                    with Swap(store, other, replica, scale.run_s):
                        report = execute(arguments.ghz, name, completed)
                else:
                    report = execute(arguments.ghz, name, completed)
                stepped = config.get("load-schedule") == "step"
                outcomes.append(judge(name, report, threshold, in_process[file], None if stepped else rate))
                if stepped:
                    curves[name] = steps(outcomes[-1].calls, scale.step_s)
                print(f"{name}: {'; '.join(outcomes[-1].misses) or 'ok'}", flush=True)
    print(f"\n{to_table(outcomes)}")
    note = f"Bundle {version}; {arguments.workers} worker(s) a service; {scale.run_s:g} s a configuration"
    note += f"; every handler sleeps {arguments.slow_ms:g} ms first." if arguments.slow_ms else "."
    target = arguments.out / "index.html"
    target.write_text(page.render("Load test", outcomes, curves, note), encoding="utf-8")
    print(f"\n{target}")
    return outcomes


def offered(threshold: Threshold, outcomes: Sequence[Outcome]) -> float | None:
    """Returns the calls per second to send to a configuration; None for a closed loop.

    The rate is the share `threshold.share` of the rate that the configuration `threshold.of` reached. It is None if
    there is no share, or if that configuration has not run.

    Args:
        threshold: thresholds of the configuration.
        outcomes: outcomes of the configurations that ran before, among which `threshold.of` is looked up.
    """
    if threshold.share is None:
        return None
    known = [outcome.rate for outcome in outcomes if outcome.name == threshold.of]
    return threshold.share * known[0] if known else None


class Swap:
    """Context that swaps bundles during a run: promotes another bundle after a third of it, rolls back after two."""

    def __init__(self, store: FolderStore, other: str, replica: Replica, run_s: float) -> None:
        """Stores the arguments; `__enter__` starts the run.

        Args:
            store: store of the services.
            other: version of the bundle to promote.
            replica: replica that has to answer from that bundle before the roll back.
            run_s: length of the run in seconds.
        """
        self._store, self._other, self._replica, self._run_s = store, other, replica, run_s
        self._thread = ThreadPoolExecutor(1)
        self._done: Future[None] | None = None

    def __enter__(self) -> None:
        """Starts the thread that promotes and rolls back."""
        self._done = self._thread.submit(self._swap)

    def __exit__(self, *exception: object) -> None:
        """Waits until the roll back is done.

        Raises:
            PairError: the replica never answered from the other bundle, so no swap was tested.
        """
        with self._thread:
            if self._done is not None:
                self._done.result()

    def _swap(self) -> None:
        query_tower = self._replica.service == SERVICES[0]
        addresses = {"query_tower" if query_tower else "ann": [self._replica.address]}
        with Fleet(**addresses, timeout_s=5.0) as fleet:
            time.sleep(self._run_s / 3)
            self._store.promote(self._other)
            try:
                wait_for_live(self._store, fleet, timeout_s=self._run_s + 10)
                time.sleep(self._run_s / 3)
            finally:
                self._store.roll_back()
            wait_for_live(self._store, fleet, timeout_s=self._run_s + 10)


if __name__ == "__main__":
    sys.exit(main())
