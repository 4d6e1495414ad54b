"""`Retriever.retrieve` of one query: unloaded, at capacity, and on schedules below it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.pair_load import Retrieve, closed_loop, open_loop, schedule
from bench.pair_world import K
from bench.timing import print_table, spread

_CALLERS = 8
_OPEN_LOOP_CALLERS = 32
_LOAD = 0.7
_SCHEDULES = ("even", "Poisson")


def measure(
    asked: Mapping[str, tuple[Retrieve, Sequence[int]]],
    recall: Mapping[str, float],
    item_count: int,
    rounds: int,
    seconds: float,
) -> dict[str, list[dict[str, float]]]:
    """Returns for each kind what its rounds found, and prints a table.

    Args:
        asked: by kind of index: how to retrieve, and the pids of the services.
        recall: of the answers, by kind.
        item_count: for the title.
        rounds: of each kind, in turns.
        seconds: a closed loop; a schedule takes twice as long.
    """
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in asked}
    for number in range(rounds):
        for kind, (retrieve, pids) in asked.items():

            def call(at: int, retrieve: Retrieve = retrieve) -> object:
                return retrieve(at, K)

            closed_loop(call, _CALLERS, 0.3)
            lone = closed_loop(call, 1, seconds, pids=pids)
            most = closed_loop(call, _CALLERS, seconds, pids=pids)
            row = {"unloaded_ms": lone.p50_ms, "capacity": most.queries_per_s, "load_us": most.load_us}
            row |= {"served_us": most.served_us, "recall": recall[kind]}
            for name, seed in zip(_SCHEDULES, (None, number), strict=True):
                due = schedule(_LOAD * most.queries_per_s, 2 * seconds, seed)
                under = open_loop(call, _OPEN_LOOP_CALLERS, due, pids)
                row |= {f"{name}_p99_ms": under.p99_ms, f"{name}_p99_of_unloaded": under.p99_ms / lone.p50_ms}
                row |= {f"{name}_cpu_us": under.served_us + under.load_us}
            found[kind].append(row)
    head = ["kind", "recall@100", "unloaded median ms", "capacity/s", "services µs", "load generator µs"]
    for name in _SCHEDULES:
        head += [f"{name}: all, µs", "p99 ms", "/ unloaded"]
    rows = [_show(kind, found[kind]) for kind in found]
    print_table(f"Retriever.retrieve, {item_count:,} items, k = {K}, at {_LOAD:.0%} of capacity", head, rows)
    return found


def _show(kind: str, rounds: Sequence[Mapping[str, float]]) -> list[str]:
    of = {name: [each[name] for each in rounds] for name in rounds[0]}
    middle = {name: statistics.median(values) for name, values in of.items()}
    cells = [kind, f"{middle['recall']:.3f}", f"{middle['unloaded_ms']:.2f}", f"{middle['capacity']:,.0f}"]
    cells += [f"{middle['served_us']:,.0f}", f"{middle['load_us']:,.0f}"]
    for name in _SCHEDULES:
        over = of[f"{name}_p99_of_unloaded"]
        cells += [f"{middle[f'{name}_cpu_us']:,.0f}", f"{middle[f'{name}_p99_ms']:.1f}"]
        cells += [spread(over, ".1f")]
    return cells
