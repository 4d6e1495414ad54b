"""Reads what a service exports of its shards."""

from __future__ import annotations

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def exported(port: int) -> dict[str, float]:
    """Returns the exported coverage, and the number of shards of each state."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    found = {sample.labels["state"]: sample.value for sample in samples if sample.name == "two_tower_shards"}
    return found | {"coverage": next(s.value for s in samples if s.name == "two_tower_coverage")}
