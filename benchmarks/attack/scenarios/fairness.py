"""Two callers with batches of 1,000 searches beside eight with single searches (issue 17, 5).

The single searches are paced, together at a quarter of the capacity for single searches that the run measures. The
batches are sent in a closed loop. Each caller names itself in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.attack.callers import Callers, run
from benchmarks.attack.calls import Calls, Load
from benchmarks.attack.rows import Row, share, tail_limit
from benchmarks.attack.services import ANN, METHOD, QUERY_TOWER, Setup
from testbed.services import Replica

NAME = "fairness"
_SINGLES, _BATCHES, _BATCH = 8, 2, 1000
_SHARE = 0.25
_NOISE_MS = 5.0


def attack(setup: Setup) -> Iterator[Row]:
    """Yields the rows of the ANN service, and in full those of the query tower too."""
    for service in (ANN, QUERY_TOWER) if setup.is_full else (ANN,):
        with setup.serving(service) as replica:
            yield from _judge(setup, replica)


def _judge(setup: Setup, replica: Replica) -> Iterator[Row]:
    seconds = 30.0 if setup.is_full else 5.0
    is_search, method = replica.service == ANN, METHOD[replica.service]
    work, batch = setup.requests.work(is_search, 1), setup.requests.work(is_search, _BATCH)
    capacity = run(Load(replica.address, method, work, 2.0, 2.0, None, _SINGLES, setup.metadata))[0].goodput(2.0)
    rate = _SHARE * capacity

    def named(name: str) -> tuple[tuple[str, str], ...]:
        return (*setup.metadata, ("two-tower-caller", name))

    singles = [
        Load(replica.address, method, work, seconds, 5.0, rate / _SINGLES, metadata=named(f"single-{number}"))
        for number in range(_SINGLES)
    ]
    batches = [
        Load(replica.address, method, batch, seconds, 30.0, None, 1, named(f"batch-{number}"))
        for number in range(_BATCHES)
    ]
    (alone,), (batches_alone,) = _run(singles), _run(batches)
    beside, batches_beside = _run(singles, batches)
    note = f"singles together {rate:,.0f}/s, {_SHARE:.0%} of capacity; p50 {alone.percentile_ms(50):.1f} ms alone"
    note += f", {beside.percentile_ms(50):.1f} ms beside"
    limit = tail_limit(alone.percentile_ms(99), 2.0, _NOISE_MS)
    p99 = beside.percentile_ms(99) if beside.in_time.all() else float("inf")
    yield Row(NAME, f"{replica.service}: p99 of single searches beside batches", p99, limit, "ms", note=note)
    before, after = _throughput(batches_alone), _throughput(batches_beside)
    promise = f"{replica.service}: throughput of batches beside, of alone"
    note = f"{before:,.0f} a second alone, {after:,.0f} beside"
    yield Row(NAME, promise, share(after, before), 60.0, "%", True, note)


def _run(*groups: list[Load]) -> list[Calls]:
    """Runs groups of loads at the same time, each in a process of its own, and returns the calls of each group."""
    with Callers(groups) as callers:
        return [Calls.joined(calls) for calls in callers.results()]


def _throughput(calls: Calls) -> float:
    """Returns the searches or queries per second of answered batches."""
    return float(calls.in_time.sum()) * _BATCH / calls.seconds
