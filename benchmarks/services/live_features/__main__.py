"""Live features, judged at size: ``python -m benchmarks.services.live_features``.

Runs a Redis server and two replicas of the query tower service on this machine. Prints a table of promises: writes that
the next answer of another replica has seen, events that are neither lost nor doubled while Redis and the replicas are
killed, events a second, and what a lookup adds to a call. Exits with 1 if a promise is missed. Needs the extra redis,
and the program redis-server or valkey-server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.rows import Row, broken, exit_code, to_table
from benchmarks.services.live_features import loss, speed
from benchmarks.services.live_features.world import SYNC_ALWAYS, SYNC_EVERY_SECOND, serving
from retrieval.store.folder_store import FolderStore
from testbed import synthetic_catalogue

_MAX_EVENTS = 1000
_KNOWN_ITEMS = 2000
"""Items with training events in the synthetic catalogue."""

_FLOORS = {1: 0.0, 10: 0.0, 100: 10_000.0, 1000: 10_000.0}
"""Events a second that are promised, by the number of events of a call; 0: nothing is promised."""

_MEDIAN_LIMIT_MS, _TAIL_LIMIT_MS = 2.0, 5.0


def main() -> int:
    """Runs the parts with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.live_features", description=__doc__)
    parser.add_argument("--short", action="store_true", help="20,000 events, for CI")
    parser.add_argument("--events", type=int, help="events that are written under kills (default: 1,000,000)")
    parser.add_argument("--only", choices=("speed", "kills"), help="run one half (default: both)")
    parser.add_argument("--store", type=Path, help="store of testbed.synthetic_catalogue (default: made anew)")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    arguments = parser.parse_args()
    short = arguments.short
    event_count = arguments.events or (20_000 if short else 1_000_000)
    user_count, kill_count = event_count // 100, 4 if short else 20
    event_count = user_count * 100
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="two-tower-live-features-") as temporary:
        folder = Path(temporary)
        store = arguments.store or folder / "store"
        if arguments.store is None:
            print("training small towers", file=sys.stderr, flush=True)
            synthetic_catalogue.train(folder / "training", FolderStore(store), 1)
        if arguments.only != "kills":
            rows += _speed(store, folder, short)
        if arguments.only != "speed":
            with serving(store, folder / "kills", SYNC_ALWAYS, _MAX_EVENTS) as world:
                rows += _run("kills", loss.judge(world, event_count, user_count, kill_count))
    took = f"{time.monotonic() - began:.0f} s on {len(os.sched_getaffinity(0))} cores, load averages "
    took += ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"\n{took}\n\n{to_table(rows, 'part')}")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_json() for row in rows], indent=2) + "\n", encoding="utf-8")
    return exit_code(rows)


def _speed(store: Path, folder: Path, short: bool) -> Iterator[Row]:
    """Yields the rows of writes that are read again, of the latency of lookups, and of rates."""
    events, rounds = (10_000, 300) if short else (200_000, 5000)
    items = [f"item-{number}" for number in range(_KNOWN_ITEMS)]
    with serving(store, folder / SYNC_EVERY_SECOND, SYNC_EVERY_SECOND, _MAX_EVENTS) as world:
        yield from _run("read your writes", speed.judge_visibility(world, 200 if short else 5000))
        yield from _run("latency", speed.judge_latency(world, items, rounds, _MEDIAN_LIMIT_MS, _TAIL_LIMIT_MS))
        for batch, floor in _FLOORS.items():
            count = events * min(batch, 100) // 100
            yield from _run("rate", speed.judge_rate(world, SYNC_EVERY_SECOND, batch, count, floor))
        yield from _run("rate", speed.judge_stream(world, 100, events, _FLOORS[100]))
    with serving(store, folder / SYNC_ALWAYS, SYNC_ALWAYS, _MAX_EVENTS) as world:
        yield from _run("rate", speed.judge_rate(world, SYNC_ALWAYS, 100, events, _FLOORS[100]))


def _run(name: str, part: Iterator[Row]) -> Iterator[Row]:
    """Yields the rows of a part as they become known, and tells them; a part that fails ends with a missed promise."""
    try:
        for row in part:
            told = f"{row.attack}: {row.promise}: {row.figure:.4g} {row.unit}; {row.note}"
            print(f"{'ok  ' if row.is_kept else 'MISS'} {told}", file=sys.stderr, flush=True)
            yield row
    except Exception as error:
        traceback.print_exc()
        yield broken(name, error)


if __name__ == "__main__":
    sys.exit(main())
