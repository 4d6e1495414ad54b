"""Waits until all replicas serve a promoted bundle."""

from __future__ import annotations

from retrieval.store.store import BundleStore
from testbed.services import wait_until
from two_tower_client.fleet import Fleet, find_faults


def wait_for_live(store: BundleStore, fleet: Fleet, timeout_s: float = 120.0) -> None:
    """Waits until every replica answers with the live bundle, with no load running and no bundle refused.

    A query tower replica may have opened the tower from another bundle of the same model, so its model is compared.

    Args:
        store: store of the replicas.
        fleet: replicas of both services.
        timeout_s: longest time to wait, in seconds.

    Raises:
        PairError: a replica did not get there in time.
    """

    def agreed() -> bool:
        pointer = store.live()
        if pointer is None:
            return False
        model = store.manifest(pointer.version).model_version
        replicas = fleet.ask()
        return not find_faults(replicas) and all(
            not r.loading_bundle
            and (r.live_bundle == pointer.version or (r.service == "query_tower" and r.live_model == model))
            for r in replicas
        )

    wait_until(agreed, "all replicas on the live bundle", timeout_s)
