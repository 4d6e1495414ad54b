"""What hundreds of swaps leave behind in a service: nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bundle.store import BundleStore
from rehearsal.pair import Pair, Replica
from rehearsal.readings import resources
from rehearsal.rollout import wait_for_live
from two_tower_client.fleet import Fleet

_WARM_UP = 20
_TOLERANCE = 0.05
_SLACK = {"memory_mib": 0.0, "mapped_files": 0.0, "descriptors": 1.0, "threads": 1.0}
"""5 % of a dozen threads is less than one; a service that is idle may have one more or less of these."""


def run(store: BundleStore, folder: Path, versions: Sequence[str], swaps: int) -> list[tuple[str, str, str, bool]]:
    """Returns rows for the table: each reading of each service before and after `swaps` swaps."""
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

        swap(_WARM_UP + _WARM_UP % len(versions))
        time.sleep(1.0)
        before = {replica.service: _read(replica) for replica in pair.replicas}
        swap(swaps - swaps % len(versions))
        time.sleep(1.0)
        for replica in pair.replicas:
            after = _read(replica)
            for name, first in before[replica.service].items():
                allowed = max(first * _TOLERANCE, _SLACK[name])
                rows.append(
                    (
                        f"{replica.service}: {name} after {swaps} swaps",
                        f"{first:.0f} ± {allowed:.1f}",
                        f"{after[name]:.1f} from {first:.1f}",
                        abs(after[name] - first) <= allowed,
                    )
                )
    return rows


def _read(replica: Replica) -> dict[str, float]:
    assert replica.process is not None
    return dict(resources(replica.process.pid))
