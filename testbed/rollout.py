"""Waiting until all replicas have swapped to the live bundle."""

from __future__ import annotations

from retrieval.store.store import BundleStore
from testbed.services import wait_until
from two_tower_client.fleet import Fleet, find_faults


def wait_for_live(store: BundleStore, fleet: Fleet, timeout_s: float = 120.0) -> None:
    """Returns once every replica answers from the live bundle, loads no other one and has refused none.

    A query tower may keep another bundle of the same model open; then its model is compared instead of its bundle.

    Raises:
        PairError: not all replicas did so within `timeout_s` seconds.
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
