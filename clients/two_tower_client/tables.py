"""What the command line prints: aligned tables, and JSON of the same."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from two_tower_client.fleet import Replica
from two_tower_client.results import AttributeValue, Retrieval


def to_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns the rows under the header, columns padded to the same width and two spaces apart."""
    # A tab or line break in a title would break the columns.
    lines = [list(header), *[[" ".join(cell.split()) or "-" for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(value: Any) -> str:
    """Returns `value` as JSON that keeps other letters than ASCII readable."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def retrieval_to_table(retrieval: Retrieval) -> str:
    """Returns one row for each item: rank, id, score and attributes."""
    header = ["rank", "item", "score", *retrieval.attributes]
    rows = [
        [str(rank), hit.item_id, f"{hit.score:.4f}", *[_to_cell(value) for value in hit.attributes.values()]]
        for rank, hit in enumerate(retrieval, start=1)
    ]
    return f"{to_table(header, rows)}\n\nmodel {retrieval.model_version}, bundle {retrieval.bundle_version}"


def retrieval_to_json(retrieval: Retrieval) -> str:
    """Returns the versions and the items."""
    items = [{"item_id": hit.item_id, "score": hit.score, "attributes": dict(hit.attributes)} for hit in retrieval]
    return to_json(
        {"model_version": retrieval.model_version, "bundle_version": retrieval.bundle_version, "items": items}
    )


def replicas_to_table(replicas: Sequence[Replica], faults: Sequence[str], now_ms: int) -> str:
    """Returns one row for each replica, and one line for each fault."""
    header = ["service", "address", "reachable", "store", "live", "model", "open", "loading", "problems", "opened"]
    rows = [
        [
            replica.service,
            replica.address,
            "no" if replica.error else "yes",
            replica.store_bundle,
            replica.live_bundle,
            replica.live_model,
            ",".join(replica.open_bundles),
            replica.loading_bundle,
            str(len(replica.problems) or ""),
            _to_age(now_ms - replica.opened_at_ms) if replica.opened_at_ms else "",
        ]
        for replica in replicas
    ]
    verdict = "\n".join(f"! {fault}" for fault in faults) or "ok: all replicas answer and agree"
    return f"{to_table(header, rows)}\n\n{verdict}"


def replicas_to_json(replicas: Sequence[Replica], faults: Sequence[str]) -> str:
    """Returns all that is known of the replicas, and the faults."""
    return to_json({"ok": not faults, "faults": list(faults), "replicas": [asdict(replica) for replica in replicas]})


def _to_cell(value: AttributeValue) -> str:
    if value is None:
        return "-"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _to_age(age_ms: int) -> str:
    seconds = max(0, age_ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"
