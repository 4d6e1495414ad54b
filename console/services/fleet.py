"""The replicas as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.settings import Pair
from two_tower_client.cli.escaping import to_line
from two_tower_client.fleet import Replica, find_faults, find_live

_SERVICES = {"query_tower": "query tower", "ann": "ANN"}


@dataclass(frozen=True)
class Refusal:
    """A bundle that a replica refused to serve.

    Attributes:
        replica: Service and address of the replica.
        bundle_version: Version of the bundle; empty if the store could not be read.
        gate: Name of the check that failed.
        message: Reason, and what to do.
        at_ms: Time of the refusal, in milliseconds since 1970-01-01 UTC.
    """

    replica: str
    bundle_version: str
    gate: str
    message: str
    at_ms: int


def find_refusals(replicas: Sequence[Replica]) -> list[Refusal]:
    """Returns what the replicas refused, the newest first."""
    refusals = [
        Refusal(_name(replica), each.bundle_version, each.gate, each.message, each.refused_at_ms)
        for replica in replicas
        for each in replica.problems
    ]
    return sorted(refusals, key=lambda refusal: -refusal.at_ms)


def describe_pair(pair: Pair, replicas: Sequence[Replica], in_flight: Mapping[str, float]) -> dict[str, Any]:
    """Returns the replicas of a pair as JSON.

    Args:
        pair: Services.
        replicas: Status of each replica.
        in_flight: Calls in flight by address of the replica, as far as metrics say.
    """
    live, serving = find_live(replicas)
    stores = {replica.store_bundle for replica in replicas if replica.store_bundle}
    return {
        "name": pair.name,
        "wanted": next(iter(stores)) if len(stores) == 1 else "",
        "live": live,
        "serving": len(serving),
        "replicas": [_describe(replica, in_flight.get(replica.address)) for replica in replicas],
        "faults": [to_line(fault) for fault in find_faults(replicas)],
    }


def _describe(replica: Replica, in_flight: float | None) -> dict[str, Any]:
    return {
        "service": _SERVICES[replica.service],
        "address": replica.address,
        "error": to_line(replica.error),
        "wanted": replica.store_bundle,
        "live": replica.live_bundle,
        "model": replica.live_model,
        "open": [
            {"bundle": bundle, "model": model}
            for bundle, model in zip(replica.open_bundles, replica.open_models, strict=True)
        ],
        "loading": replica.loading_bundle,
        "problems": [
            {
                "bundle": each.bundle_version,
                "gate": each.gate,
                "message": to_line(each.message),
                "at_ms": each.refused_at_ms,
            }
            for each in replica.problems
        ],
        "opened_at_ms": replica.opened_at_ms,
        "in_flight": in_flight,
    }


def _name(replica: Replica) -> str:
    return f"{_SERVICES[replica.service]} {replica.address}"
