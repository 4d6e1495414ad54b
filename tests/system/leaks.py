"""Part of the soak: hundreds of swaps must not leak memory, mapped files, descriptors or threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.rollout import wait_for_live
from testbed.services import Pair
from tests.system.readings import resources
from two_tower_client.fleet import Fleet

_WARM_UP = 20
_READINGS = 15
_TOLERANCE = 0.05
_SLACK = {"memory_mib": 0.0, "mapped_files": 0.0, "descriptors": 1.0, "threads": 1.0}
"""Absolute change of each reading that is always tolerated: an idle service may gain or lose a thread or descriptor."""


def run(store: FolderStore, folder: Path, versions: Sequence[str], swaps: int) -> list[tuple[str, str, str, bool]]:
    """Returns table rows: each reading of each service before and after `swaps` swaps, and whether it passes.

    A reading is the median over some consecutive swaps: the allocator may or may not return a few MiB that a swap
    freed, so that a single reading of a service without a leak varies by up to 14 %. Memory may be lower at the end;
    the other readings must not change in either direction.

    Args:
        store: store with the bundles.
        folder: folder for logs.
        versions: versions of the two bundles to swap.
        swaps: number of swaps between the two readings.
    """
    rows: list[tuple[str, str, str, bool]] = []
    with (
        Pair(store.root, folder / "leaks", flags={"retire-after-s": "0", "poll-interval-s": "0.02"}) as pair,
        Fleet([pair.query_towers[0].address], [pair.anns[0].address]) as fleet,
    ):

        def swap(times: int) -> None:
            for _ in range(times):
                pointer = store.live()
                live = pointer.version if pointer else ""
                following = (
                    versions[(list(versions).index(live) + 1) % len(versions)] if live in versions else versions[0]
                )
                store.promote(following)
                wait_for_live(store, fleet)

        def read() -> dict[str, dict[str, float]]:
            seen: dict[str, list[Mapping[str, float]]] = {replica.service: [] for replica in pair.replicas}
            for _ in range(_READINGS):
                swap(1)
                time.sleep(0.3)
                for replica in pair.replicas:
                    assert replica.process is not None
                    seen[replica.service].append(resources(replica.process.pid))
            return {
                service: {name: statistics.median(each[name] for each in readings) for name in readings[0]}
                for service, readings in seen.items()
            }

        swap(_WARM_UP)
        before = read()
        swap(swaps - _READINGS)
        after = read()
    for service, readings in before.items():
        for name, first in readings.items():
            last = after[service][name]
            allowed = max(first * _TOLERANCE, _SLACK[name])
            only_growth = name == "memory_mib"
            rows.append(
                (
                    f"{service}: {name} after {swaps} swaps",
                    f"at most {first + allowed:.1f}" if only_growth else f"{first:.0f} ± {allowed:.1f}",
                    f"{last:.1f} from {first:.1f}",
                    (last - first if only_growth else abs(last - first)) <= allowed,
                )
            )
    return rows
