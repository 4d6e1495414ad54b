"""`make soak`: many swaps under load with checked answers, faults in the middle of swaps, and leaks of many swaps.

Prints a table and exits with 1 if a target is missed. ``--short`` takes less time, with fewer swaps. It prints times
but has no targets for them, since so few samples on a shared machine say little.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.store.folder_store import FolderStore
from testbed.load import Load, Tally
from testbed.movielens import print_heading, read_queries, train
from testbed.offline import OfflineBundle
from testbed.rollout import wait_for_live
from testbed.services import Pair, Replica, wait_until
from testbed.synthetic_bundles import write_large_bundle
from tests.system import faults, leaks
from tests.system.readings import free_port, read_metric
from two_tower_client import Retriever
from two_tower_client.fleet import Fleet

RETIRE_AFTER_S = 5.0
"""Grace period of a retiring bundle, in seconds; longer than any deadline of the load."""


@dataclass(frozen=True)
class Scale:
    """Size of a soak.

    Attributes:
        promotions: Number of promotions under load.
        roll_backs: Number of roll backs under load.
        requests: Least number of requests.
        clients: Number of threads that send requests.
        quiet_s: Time without swaps in which the reference latency is measured, in seconds.
        pause_s: Pause between two swaps, in seconds.
        faults: Number of times that each fault is caused.
        leak_swaps: Number of swaps between the two readings of the leak check.
        large_items: Number of items of the bundles in the stall check.
        judges_times: Whether times have targets.
        epochs: Number of epochs for which the towers are trained.
    """

    promotions: int
    roll_backs: int
    requests: int
    clients: int
    quiet_s: float
    pause_s: float
    faults: int
    leak_swaps: int
    large_items: int
    judges_times: bool
    epochs: int


FULL = Scale(200, 20, 100_000, 16, 30.0, 1.0, 20, 500, 1_000_000, True, 3)
SHORT = Scale(12, 3, 5_000, 8, 6.0, 0.3, 2, 40, 50_000, False, 1)


_VERDICTS = {True: "ok", False: "MISSED", None: "not judged"}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: Measured quantity.
        target: Target in words.
        seen: Measured value.
        holds: Whether the target is reached; None if it is not checked.
    """

    what: str
    target: str
    seen: str
    holds: bool | None


def main() -> int:
    """Runs the soak with the command line's arguments, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.system.soak", description=__doc__)
    parser.add_argument("--short", action="store_true", help="under 3 minutes, for CI")
    parser.add_argument("--only", choices=["swaps", "stall", "faults", "leaks"], help="run this part only")
    arguments = parser.parse_args()
    scale = SHORT if arguments.short else FULL
    with tempfile.TemporaryDirectory(prefix="two-tower-soak-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        # Forced: the soak is about swaps, and seeds trained for so short differ by more than the gates allow.
        versions = [train(folder, store, epochs=scale.epochs, seed=seed, force=True) for seed in (1, 2, 3)]
        queries = read_queries()
        offline = functools.cache(lambda version: OfflineBundle(store, version, queries))
        parts: dict[str, Callable[[], list[Row]]] = {
            "swaps": lambda: swaps(store, folder, versions, queries, offline, scale),
            # Its only row is a time.
            **(
                {"stall": lambda: stall(store, folder, versions[0], scale)}
                if scale.judges_times or arguments.only == "stall"
                else {}
            ),
            "faults": lambda: [Row(*r) for r in faults.run(store, folder, versions, queries, offline, scale.faults)],
            "leaks": lambda: [Row(*r) for r in leaks.run(store, folder, versions, scale.leak_swaps)],
        }
        rows: list[Row] = []
        for name, part in parts.items():
            if arguments.only in (None, name):
                print_heading(name)
                rows += part()
                print_rows(rows)
    return 1 if any(row.holds is False for row in rows) else 0


def swaps(
    store: FolderStore,
    folder: Path,
    versions: Sequence[str],
    queries: list[dict[str, object]],
    offline: Callable[[str], OfflineBundle],
    scale: Scale,
) -> list[Row]:
    """Promotes and rolls back under load, with two replicas of each service, and returns the table rows.

    Every third swap begins before the previous one has reached all replicas.
    """
    flags = {"retire-after-s": str(RETIRE_AFTER_S)}
    with (
        Pair(store.root, folder / "swaps", replicas=2, flags=flags) as pair,
        Retriever([r.address for r in pair.query_towers], [r.address for r in pair.anns], timeout_s=4.0) as retriever,
        Fleet([r.address for r in pair.query_towers], [r.address for r in pair.anns]) as fleet,
    ):
        for version in versions:
            offline(version)
        with Load(retriever, queries, offline, clients=scale.clients) as load:
            time.sleep(2.0)  # connections and caches warm up; not part of the figures
            quiet_from = time.monotonic()
            time.sleep(scale.quiet_s)
            swaps_from = time.monotonic()
            done_roll_backs = 0
            for number in range(scale.promotions):
                store.promote(versions[number % len(versions)])
                if number % 3:
                    wait_for_live(store, fleet)
                    time.sleep(scale.pause_s)
                if done_roll_backs < scale.roll_backs and number % 9 == 8:
                    store.roll_back()
                    done_roll_backs += 1
                    wait_for_live(store, fleet)
            while done_roll_backs < scale.roll_backs:
                store.promote(versions[done_roll_backs % len(versions)])
                wait_for_live(store, fleet)
                store.roll_back()
                wait_for_live(store, fleet)
                done_roll_backs += 1
            swaps_to = time.monotonic()
            wait_until(lambda: load.tally.sent >= scale.requests, f"{scale.requests:,} requests", 3600)
            wait_for_live(store, fleet)
    tally = load.tally
    for message, count in tally.failures.most_common(5):
        print(f"failed {count} x: {message}")
    quiet, busy = p99(tally, quiet_from, swaps_from), p99(tally, swaps_from, swaps_to)
    answers = ", ".join(f"{count:,}" for count in tally.bundles.values())
    print(f"answers by bundle: {answers}; {swaps_to - swaps_from:.0f} s of swaps")
    return [
        Row("promotions, roll backs", "all", f"{scale.promotions}, {done_roll_backs}", True),
        Row("requests", f"at least {scale.requests:,}", f"{tally.sent:,}", tally.sent >= scale.requests),
        Row("failed", "0", str(tally.failed), tally.failed == 0),
        Row("mixed, or not the bundle's own answer", "0", str(tally.mixed), tally.mixed == 0),
        Row(
            "p99 during swaps / p99 without",
            "at most 1.5",
            f"{busy / quiet:.2f} ({busy * 1e3:.0f} / {quiet * 1e3:.0f} ms)",
            busy <= 1.5 * quiet if scale.judges_times else None,
        ),
    ]


def stall(store: FolderStore, folder: Path, base: str, scale: Scale) -> list[Row]:
    """Swaps one large index for another, and returns a row with the longest delay measured by the stall ticker."""
    print(f"building two indexes of {scale.large_items:,} items …", flush=True)
    large = [write_large_bundle(store, base, scale.large_items, seed).bundle_version for seed in (1, 2)]
    store.promote(large[0])
    metrics_port = free_port()
    ann = Replica("ann_service", store.root, folder / "stall", {"retire-after-s": "2", "poll-interval-s": "0.2"})
    ann.flags = {**ann.flags, "metrics-port": str(metrics_port)}
    try:
        ann.start()
        with Fleet(ann=[ann.address], timeout_s=5.0) as fleet:
            wait_for_live(store, fleet, timeout_s=600)
            for version in (large[1], large[0], large[1]):
                store.promote(version)
                wait_for_live(store, fleet, timeout_s=600)
            time.sleep(3.0)  # by then the retired bundle is dropped
            longest_s = read_metric(metrics_port, "two_tower_longest_stall_seconds")
    finally:
        ann.stop()
    return [
        Row(
            f"longest stall, {scale.large_items:,} x 64 swapped 3 times",
            "under 50 ms",
            f"{longest_s * 1e3:.1f} ms",
            longest_s < 0.05 if scale.judges_times else None,
        )
    ]


def p99(tally: Tally, start: float, end: float) -> float:
    """Returns the 99th percentile of the latencies of requests that ended from `start` to `end`, in seconds."""
    return float(np.quantile([seconds for moment, seconds in tally.latencies if start <= moment < end], 0.99))


def print_rows(rows: Sequence[Row]) -> None:
    """Prints the rows as a table."""
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("what", "target", "seen")]
    print()
    for row in rows:
        cells = (f"{getattr(row, name):<{w}}" for name, w in zip(("what", "target", "seen"), widths, strict=True))
        print("  ".join([*cells, _VERDICTS[row.holds]]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
