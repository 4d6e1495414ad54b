"""Prometheus metrics of the shards of the live bundle."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge

from ann_service.catalogue import Catalogue
from ann_service.shards.sharded_catalogue import ShardedCatalogue, ShardState
from retrieval.serving.bundles.open_bundles import OpenBundles


def export(registry: CollectorRegistry, open_bundles: OpenBundles[Catalogue | ShardedCatalogue]) -> None:
    """Registers the metrics; each is worked out when it is read.

    Args:
        registry: registry of the server.
        open_bundles: open bundles, of which the newest is the live one.
    """

    def live() -> Catalogue | ShardedCatalogue | None:
        snapshot = open_bundles.snapshot
        return snapshot.open[0].bundle if snapshot.open else None

    def count(state: ShardState) -> int:
        catalogue = live()
        if isinstance(catalogue, ShardedCatalogue):
            return Counter(catalogue.shards.states())[state]
        return int(catalogue is not None and state == "open")

    def coverage() -> float:
        catalogue = live()
        if isinstance(catalogue, ShardedCatalogue):
            return catalogue.coverage(state == "open" for state in catalogue.shards.states())
        return float(catalogue is not None)

    shards = Gauge("two_tower_shards", "Shards of the live bundle, by state.", ["state"], registry=registry)
    for state in get_args(ShardState):
        shards.labels(state).set_function(lambda state=state: count(state))
    share = Gauge("two_tower_coverage", "Share of the items of the live bundle in open shards.", registry=registry)
    share.set_function(coverage)
