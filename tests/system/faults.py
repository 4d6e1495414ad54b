"""Part of the soak: faults in the middle of swaps. No request may fail or get a wrong answer.

A refusal has to be visible in the serving status.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from retrieval.bundle.layout import INDEX
from retrieval.store.folder_store import FolderStore
from testbed.load import Load
from testbed.offline import OfflineBundle
from testbed.rollout import wait_for_live
from testbed.services import Pair, wait_until
from tests.system import publish_faults
from two_tower_client import Retriever
from two_tower_client.fleet import Fleet

Result = tuple[str, str, str, bool]


def run(
    store: FolderStore,
    folder: Path,
    versions: Sequence[str],
    queries: list[dict[str, object]],
    offline: Callable[[str], OfflineBundle],
    times: int,
) -> list[Result]:
    """Causes each fault `times` times under load, and returns one table row for each kind of fault."""
    flags = {"retire-after-s": "5"}
    with (
        Pair(store.root, folder / "faults", replicas=2, flags=flags) as pair,
        Retriever([r.address for r in pair.query_towers], [r.address for r in pair.anns], timeout_s=4.0) as retriever,
        Fleet([r.address for r in pair.query_towers], [r.address for r in pair.anns]) as fleet,
    ):
        return [
            _kill_replicas(store, pair, fleet, retriever, versions, queries, offline, times),
            _truncate_after_promotion(store, fleet, retriever, versions, queries, offline, times),
            *publish_faults.run(store, folder, versions, times),
        ]


def _kill_replicas(
    store: FolderStore,
    pair: Pair,
    fleet: Fleet,
    retriever: Retriever,
    versions: Sequence[str],
    queries: list[dict[str, object]],
    offline: Callable[[str], OfflineBundle],
    times: int,
) -> Result:
    """Kills each replica at a random moment of a swap and restarts it; the other replica of the service must answer."""
    chance = random.Random(7)
    for version in versions:
        offline(version)
    kills = 0
    with Load(retriever, queries, offline, clients=4) as load:
        for number in range(times):
            for replica in pair.replicas:
                store.promote(versions[(number + kills) % len(versions)])
                time.sleep(chance.uniform(0.0, 0.6))
                replica.kill()
                kills += 1
                replica.start()
                wait_for_live(store, fleet)
    tally = load.tally
    wrong = tally.mixed
    lost = sum(count for message, count in tally.failures.items() if not message.startswith("Unavailable"))
    seen = (
        f"{kills} kills, {tally.sent:,} requests, {wrong} wrong, {tally.failed - lost} lost with the connection, "
        f"{lost} failed otherwise"
    )
    return ("SIGKILL of each replica in a swap, restart", "0 wrong, 0 failed otherwise", seen, not wrong and not lost)


def _truncate_after_promotion(
    store: FolderStore,
    fleet: Fleet,
    retriever: Retriever,
    versions: Sequence[str],
    queries: list[dict[str, object]],
    offline: Callable[[str], OfflineBundle],
    times: int,
) -> Result:
    """Truncates the index of a bundle just before it goes live: replicas must refuse it and keep the old bundle."""
    refused = answered = 0
    for number in range(times):
        good = versions[number % len(versions)]
        store.promote(good)
        wait_for_live(store, fleet)
        bad = publish_faults.copy(store, good, store.new_version())
        path = store.path(bad) / INDEX
        live = store.root / "LIVE"
        # The last step of `promote`, after the verification; the damage is done in between.
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        replaced = store.root / "LIVE.new"
        replaced.write_text(f"{bad}\n{live.read_text()}")
        replaced.replace(live)

        wait_until(lambda: _anns_refuse(fleet, bad), f"the ANN replicas to refuse {bad}")  # noqa: B023  called at once
        refused += 1
        query = number % len(queries)
        answer = retriever.retrieve(queries[query], 10)
        # The first answer after a swap may still come from the previous bundle, since both are open.
        own = answer.bundle_version in versions
        answered += own and offline(answer.bundle_version).agrees(query, answer.item_ids, answer.scores)
        store.roll_back()
        wait_for_live(store, fleet)
        shutil.rmtree(store.path(bad))
    seen = f"{refused} refused by gate size, {answered} answered by a sound bundle"
    return ("index truncated after promotion", f"{times} refused and answered", seen, refused == answered == times)


def _anns_refuse(fleet: Fleet, version: str) -> bool:
    anns = [replica for replica in fleet.ask() if replica.service == "ann"]
    return all(any(p.bundle_version == version and p.gate == "size" for p in r.problems) for r in anns)
