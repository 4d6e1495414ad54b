"""`Retriever.retrieve` of one query: unloaded, at capacity, and on schedules below it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench import host
from bench.pair_load import Retrieve, closed_loop, open_loop, schedule
from bench.pair_world import K
from bench.timing import p99, print_table

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
    spared: dict[tuple[str, str], list[float]] = defaultdict(list)
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
                with host.watched() as pauses:
                    under = open_loop(call, _OPEN_LOOP_CALLERS, due, pids)
                calls = under.spared(pauses)
                row |= {f"{name}_p99_ms": under.p99_ms, f"{name}_spared": float(calls.mean())}
                row |= {f"{name}_p99_of_unloaded": under.p99_ms / lone.p50_ms}
                spared[kind, name] += (under.latencies_ms[calls] / lone.p50_ms).tolist()
            found[kind].append(row)
    head = ["kind", "recall@100", "unloaded median ms", "capacity/s", "services µs", "load generator µs"]
    for name in _SCHEDULES:
        head += [f"p99 ms, {name}", "/ unloaded", "calls that no pause touched", "their p99 / unloaded"]
    rows = [_show(kind, found[kind], [spared[kind, name] for name in _SCHEDULES]) for kind in found]
    print_table(f"Retriever.retrieve, {item_count:,} items, k = {K}, at {_LOAD:.0%} of capacity", head, rows)
    return found


def _show(kind: str, rounds: Sequence[Mapping[str, float]], spared: Sequence[Sequence[float]]) -> list[str]:
    of = {name: [each[name] for each in rounds] for name in rounds[0]}
    middle = {name: statistics.median(values) for name, values in of.items()}
    cells = [kind, f"{middle['recall']:.3f}", f"{middle['unloaded_ms']:.2f}", f"{middle['capacity']:,.0f}"]
    cells += [f"{middle['served_us']:,.0f}", f"{middle['load_us']:,.0f}"]
    for name, ratios in zip(_SCHEDULES, spared, strict=True):
        over = of[f"{name}_p99_of_unloaded"]
        cells += [
            f"{middle[f'{name}_p99_ms']:.1f}",
            f"{statistics.median(over):.1f} ({min(over):.1f} to {max(over):.1f})",
        ]
        cells += [f"{middle[f'{name}_spared']:.0%}", p99(ratios)]
    return cells
