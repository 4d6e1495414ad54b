"""The served pair by how many callers ask at once, and by how many items they ask for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.pair_load import Retrieve, Round, closed_loop
from bench.timing import print_table

CALLERS = (1, 4, 16, 64)
KS = (10, 100)


def measure(
    pairs: Mapping[str, tuple[Retrieve, Sequence[int]]], item_count: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Returns what closed loops saw, and prints it: medians of rounds that take turns.

    Args:
        pairs: by kind of index, what asks it, and the processes that answer.
        item_count: for the title.
        rounds: of each.
        seconds: a round.
    """
    cells = [(kind, k, callers) for kind in pairs for k in KS for callers in CALLERS]
    found: dict[tuple[str, int, int], list[Round]] = {cell: [] for cell in cells}
    for _ in range(rounds):
        for kind, k, callers in cells:
            retrieve, pids = pairs[kind]
            found[kind, k, callers].append(closed_loop(lambda n: retrieve(n, k), callers, seconds, pids=pids))  # noqa: B023
    figures = [
        {
            "kind": kind,
            "k": k,
            "callers": callers,
            "queries_per_s": statistics.median(each.queries_per_s for each in of),
            "p50_ms": statistics.median(each.p50_ms for each in of),
            "p99_ms": statistics.median(each.p99_ms for each in of),
            "served_us": statistics.median(each.served_us for each in of),
        }
        for (kind, k, callers), of in found.items()
    ]
    rows = [
        [
            row["kind"],
            *(str(row[name]) for name in ("k", "callers")),
            f"{row['queries_per_s']:,.0f}",
            *(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms")),
            f"{row['served_us']:,.0f}",
        ]
        for row in figures
    ]
    head = ["kind", "k", "callers", "retrieves/s", "median ms", "p99 ms", "services, CPU µs"]
    print_table(f"Retriever.retrieve, {item_count:,} items, closed loop", head, rows)
    return figures
