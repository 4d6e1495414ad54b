"""Live figures of the services: throughput, errors and latency between two readings of their metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from console.services.scrape import Sample, ScrapeError, scrape
from console.settings import MetricsPort

_FRESH_S = 1.0
"""Shortest time between two readings, in seconds, however many pages are open."""

_OLD_S = 30.0
"""Age of a reading in seconds from which on it tells nothing about now: then figures begin anew."""

_THREADS = 8
_GIVEN_UP = "CANCELLED"


@dataclass(frozen=True)
class MethodFigures:
    """Figures of one method of one process between two readings.

    Attributes:
        method: Name of the method.
        calls_per_s: Calls answered a second, whatever the code.
        errors_per_s: Those that failed. A call that its caller gave up is none: clients do so when another replica was
            quicker.
        codes: Calls a second by code other than OK, those above 0.
        median_ms: Median time from arrival to answer, in milliseconds; None if nothing was answered.
        p99_ms: 99th percentile of it.
    """

    method: str
    calls_per_s: float
    errors_per_s: float
    codes: Mapping[str, float]
    median_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class ProcessFigures:
    """Figures of one process.

    Attributes:
        address: Address of its metrics endpoint.
        replica: Address of its replica; empty if unknown.
        error: Why it cannot be read; empty if it can.
        live_bundle: Bundle that answers by default.
        in_flight: Calls received and not yet answered.
        queued: Those whose work has not begun.
        open_bundles: Number of open bundles.
        memory_available_bytes: Memory that the process can still allocate.
        methods: Figures by method; empty at the first reading.
    """

    address: str
    replica: str
    error: str = ""
    live_bundle: str = ""
    in_flight: float = 0.0
    queued: float = 0.0
    open_bundles: float = 0.0
    memory_available_bytes: float = 0.0
    methods: tuple[MethodFigures, ...] = ()


class Figures:
    """Reads the metrics of all processes when somebody looks. Safe for use by several threads."""

    def __init__(
        self, ports: Sequence[MetricsPort], read: Callable[[MetricsPort], Sample] = scrape, fresh_s: float = _FRESH_S
    ) -> None:
        """Takes the endpoints.

        Args:
            ports: endpoints.
            read: reads one endpoint; raises ScrapeError.
            fresh_s: shortest time between two readings, in seconds.
        """
        self._ports = ports
        self._read = read
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # held while endpoints are read; whoever only looks does not wait for it
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="metrics")
        self._samples: dict[MetricsPort, Sample] = {}
        self._figures: list[ProcessFigures] = []
        self._read_s: float | None = None
        self._number = 0

    def look(self) -> dict[str, object]:
        """Returns the figures as JSON, with the number of the reading."""
        with self._reading:
            self._read_all()
        with self._lock:
            return {"reading": self._number, "processes": [asdict(each) for each in self._figures]}

    def in_flight(self) -> dict[str, float]:
        """Returns the calls in flight by address of the replica, over all of its processes, as of the last reading.

        It starts the next reading, and does not wait for it.
        """
        if not any(port.replica for port in self._ports):
            return {}
        if not self._reading.locked():
            threading.Thread(target=self.look, name="metrics", daemon=True).start()
        with self._lock:
            figures, age_s = self._figures, time.monotonic() - (self._read_s or 0.0)
        counts: dict[str, float] = {}
        for each in figures if age_s <= _OLD_S else ():
            if each.replica and not each.error:
                counts[each.replica] = counts.get(each.replica, 0.0) + each.in_flight
        return counts

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read_all(self) -> None:
        if self._read_s is not None and time.monotonic() - self._read_s < self._fresh_s:
            return
        figures = list(self._threads.map(self._look_at, self._ports))
        with self._lock:
            self._figures, self._read_s = figures, time.monotonic()
            self._number += 1

    def _look_at(self, port: MetricsPort) -> ProcessFigures:
        try:
            sample = self._read(port)
        except ScrapeError as error:
            self._samples.pop(port, None)
            return ProcessFigures(port.address, port.replica, str(error))
        before = self._samples.get(port)
        self._samples[port] = sample
        gauges = sample.gauges
        return ProcessFigures(
            port.address,
            port.replica,
            live_bundle=sample.live_bundle,
            in_flight=gauges.get("two_tower_in_flight", 0.0),
            queued=gauges.get("two_tower_queued", 0.0),
            open_bundles=gauges.get("two_tower_open_bundles", 0.0),
            memory_available_bytes=gauges.get("two_tower_memory_available_bytes", 0.0),
            methods=compare(before, sample) if before is not None else (),
        )


def compare(before: Sample, after: Sample) -> tuple[MethodFigures, ...]:
    """Returns the figures of each method between two readings of one process.

    They are empty if the process was started anew in between, or the first reading is older than 30 s.
    """
    seconds = after.at_s - before.at_s
    counted = {key: count - before.calls.get(key, 0.0) for key, count in after.calls.items()}
    if not 0 < seconds <= _OLD_S or any(count < 0 for count in counted.values()):
        return ()
    figures: list[MethodFigures] = []
    for method in sorted({method for method, _ in after.calls}):
        calls = {code: count / seconds for (name, code), count in counted.items() if name == method}
        others = {code: rate for code, rate in calls.items() if code != "OK" and rate > 0}
        earlier = before.buckets.get(method, {})
        buckets = [(bound, n - earlier.get(bound, 0.0)) for bound, n in sorted(after.buckets.get(method, {}).items())]
        median_s, p99_s = quantile(0.5, buckets), quantile(0.99, buckets)
        figures.append(
            MethodFigures(
                method,
                sum(calls.values()),
                sum(rate for code, rate in others.items() if code != _GIVEN_UP),
                others,
                None if median_s is None else 1000 * median_s,
                None if p99_s is None else 1000 * p99_s,
            )
        )
    return tuple(figures)


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Returns a quantile of a histogram, as Prometheus' ``histogram_quantile`` does: linear within a bucket.

    Args:
        share: Share of the values below the quantile, 0 to 1.
        buckets: Upper bound and cumulative count of each bucket, ascending; the last bound is infinite.

    Returns:
        The quantile; the largest finite bound if it is above that; None if the histogram is empty.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == float("inf"):
                return lower
            return bound if count == below else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower
