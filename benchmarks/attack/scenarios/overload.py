"""More load than a service can answer, in open and closed loops (issue 17, 4).

Each call carries as many searches as make the capacity about 100 calls per second, or as many queries as make it 200
(more of them would make calls so large that sending them is the bottleneck), so that the load
generators can offer ten times of it; the notes say what was really offered. The deadline of every call is 300 ms. A
refused caller of a closed loop waits 0.1 s, twice as long after each further refusal, up to 1.6 s, with jitter, and at
least as long as the retry hint says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks.attack.callers import Callers, run
from benchmarks.attack.calls import REFUSED, Calls, Load
from benchmarks.attack.probes import Memory, Probes
from benchmarks.attack.rows import Row, share
from benchmarks.attack.services import ANN, METHOD, QUERY_TOWER, Setup
from testbed.services import Replica

NAME = "overload"
_DEADLINE_S = 0.3
_CALLS_PER_S = {ANN: 100.0, QUERY_TOWER: 200.0}
_LARGEST_CALL = 500
_TIMES = (0.5, 1.0, 2.0, 5.0, 10.0)
_GROWTH_MIB, _RECOVERY_S = 64.0, 2.0


@dataclass(frozen=True)
class Point:
    """One point of the curve of goodput against load.

    Attributes:
        service: Package of the service.
        loop: ``open`` or ``closed``.
        load: Multiple of the capacity, or number of callers.
        offered: Calls really begun per second.
        answered: Answers in time per second.
        refused: Refusals per second.
        p50_ms: Median latency of the answers, in ms; None without answers.
        p99_ms: 99th percentile of the latency of the answers, in ms; None without answers.
        lag_ms: 99th percentile of the delays of the load generators' event loops, in ms. A load generator that lags by
            much counts answers as late that came in time.
    """

    service: str
    loop: str
    load: float
    offered: float
    answered: float
    refused: float
    p50_ms: float | None
    p99_ms: float | None
    lag_ms: float


CURVE_COLUMNS = tuple(Point.__dataclass_fields__)


def attack(setup: Setup, curve: list[dict[str, object]]) -> Iterator[Row]:
    """Yields the rows of both services.

    Args:
        setup: setup of the run.
        curve: gets the fields of a `Point` for each load.
    """
    for service in (ANN, QUERY_TOWER):
        times = _TIMES if setup.is_full or service == ANN else (5.0,)
        callers = (
            (16, 64, 128, 300, 1000) if setup.is_full else (16, 1000) if service == QUERY_TOWER else (16, 128, 1000)
        )
        with setup.serving(service) as replica:
            yield from _Overload(setup, replica, curve).judge(times, callers)


class _Overload:
    """The loads of one service."""

    def __init__(self, setup: Setup, replica: Replica, curve: list[dict[str, object]]) -> None:
        """Takes the running replica; `judge` sends the loads."""
        self._setup, self._replica, self._curve = setup, replica, curve
        self._seconds = 15.0 if setup.is_full else 2.5
        self._load = Load(replica.address, METHOD[replica.service], (), self._seconds, _DEADLINE_S)
        self._load = replace(self._load, metadata=setup.metadata)
        self._refusals: list[Calls] = []

    def judge(self, times: tuple[float, ...], callers: tuple[int, ...]) -> Iterator[Row]:
        """Yields the rows.

        Args:
            times: multiples of the capacity for the open loops.
            callers: numbers of callers of the closed loops.
        """
        setup, name = self._setup, self._replica.service
        size, capacity, aim = 1, self._measure(1), _CALLS_PER_S[name]
        while capacity > 1.5 * aim and size < _LARGEST_CALL:  # many in one call may cost less than one by one
            size = max(1, min(_LARGEST_CALL, round(size * capacity / aim)))
            capacity = self._measure(size)
        self._load = replace(self._load, requests=setup.requests.work(name == ANN, size))
        what = f"{size} {'searches' if name == ANN else 'queries'} a call"
        with Memory(self._replica) as memory, Probes(setup, self._replica) as probes:
            points = [self._open(factor, capacity) for factor in times[:-1]]
            last, recovery_s = self._open_and_recover(times[-1], capacity)
            points.append(last)
            points += [self._closed(count) for count in callers]
        peak = max([capacity, *(point.answered for point in points)])
        for point in points:
            due = min(point.offered, peak) if point.loop == "open" else peak
            load = f"{point.load:g} times capacity" if point.loop == "open" else f"{point.load:,.0f} callers"
            note = f"offered {point.offered:,.0f}/s, answered {point.answered:,.0f}/s, peak {peak:,.0f}/s, {what}"
            note += f", p99 {point.p99_ms or math.nan:,.0f} ms, refused {point.refused:,.0f}/s"
            note += f", load generator's lag {point.lag_ms:,.0f} ms"
            promise = f"{name}, {point.loop} loop, {load}: in time, of peak or offered"
            yield Row(NAME, promise, share(point.answered, due), 90.0, "%", True, note)
        refused = Calls.joined(self._refusals)
        count = int((refused.codes == REFUSED).sum())
        for percent, limit in ((50, 20.0), (99, 100.0)):
            # Without refusals there is nothing to judge: what was not answered in time has missed its row above.
            figure = refused.percentile_ms(percent, REFUSED) if count else 0.0
            yield Row(NAME, f"{name}: refusal, p{percent}", figure, limit, "ms", note=f"{count:,} refusals")
        yield Row(NAME, f"{name}: largest growth of memory", memory.growth_mib, _GROWTH_MIB, "MiB")
        yield Row(NAME, f"{name}: last late or failed call after the overload", recovery_s, _RECOVERY_S, "s")
        yield Row(NAME, f"{name}: slowest health.Check", probes.worst_ms("health"), 50.0, "ms")

    def _measure(self, size: int) -> float:
        """Returns the answers per second of 16 callers without other load."""
        work = self._setup.requests.work(self._replica.service == ANN, size)
        load = replace(self._load, requests=work, seconds=min(self._seconds, 5.0), timeout_s=5.0, callers=16)
        return max(1.0, run(load)[0].goodput(load.seconds))

    def _open(self, factor: float, capacity: float) -> Point:
        return self._point("open", factor, self._send(self._open_loads(factor * capacity)))

    def _open_and_recover(self, factor: float, capacity: float) -> tuple[Point, float]:
        """Returns the point of an open loop, and how long its effects were noticed after its last call, in seconds.

        A load at half of the capacity begins when the open loop ends. The last of its calls that failed or came too
        late counts.
        """
        loads = self._open_loads(factor * capacity)
        after = replace(self._load, rate=capacity / 2, seconds=4.0, delay_s=self._seconds)
        with Callers([[load] for load in [*loads, after]]) as callers:
            *overload, recovery = [each for (each,) in callers.results()]
        calls = Calls.joined(overload)
        self._refusals.append(calls)
        late = recovery.began_s[~recovery.in_time]
        recovery_s = max(0.0, float(late.max() - calls.began_s.max())) if len(late) else 0.0
        return self._point("open", factor, calls), recovery_s

    def _open_loads(self, rate: float) -> list[Load]:
        processes = len(self._setup.caller_cores)
        return [replace(self._load, rate=rate / processes)] * processes

    def _closed(self, count: int) -> Point:
        processes = min(count, len(self._setup.caller_cores))
        loads = [replace(self._load, callers=len(range(n, count, processes))) for n in range(processes)]
        return self._point("closed", count, self._send(loads))

    def _send(self, loads: list[Load]) -> Calls:
        with Callers([[load] for load in loads]) as callers:
            calls = Calls.joined([each for (each,) in callers.results()])
        self._refusals.append(calls)
        return calls

    def _point(self, loop: str, load: float, calls: Calls) -> Point:
        answered = bool(calls.in_time.any())
        point = Point(
            service=self._replica.service,
            loop=loop,
            load=load,
            offered=calls.offered,
            answered=calls.goodput(self._seconds),
            refused=float((calls.codes == REFUSED).sum()) / self._seconds,
            p50_ms=calls.percentile_ms(50) if answered else None,
            p99_ms=calls.percentile_ms(99) if answered else None,
            lag_ms=1e3 * float(np.percentile(calls.lags_s, 99)) if len(calls.lags_s) else 0.0,
        )
        self._curve.append(asdict(point))
        return point
