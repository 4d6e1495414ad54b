"""Prometheus metrics of a server. Each server has its own registry, so that one process can run several servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server

from retrieval.version import version

_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_SWAP_BUCKETS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

CREDENTIAL_FILES = ("tokens", "certificate")
RELOAD_RESULTS = ("ok", "failed")

STALL_S = 0.25
"""Time in which no thread could run, in seconds, from which on it is counted as a stall."""


class Metrics:
    """All metrics of one server. Safe for use by several threads.

    Attributes:
        registry: Prometheus registry that has these metrics only.
    """

    def __init__(self) -> None:
        """Registers the metrics, at zero."""
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("two_tower_requests", "Calls answered.", ["method", "code"], registry=registry)
        self.request_seconds = self._seconds("request", "From the arrival of a call's headers to its answer.")
        self.queue_seconds = self._seconds("queue", "From the arrival of a call's message to the begin of its work.")
        self.work_seconds = self._seconds("work", "Time that threads worked on a call.")
        self.refused = Counter("two_tower_refused", "Calls refused.", ["method", "reason"], registry=registry)
        self.undecodable = Counter(
            "two_tower_undecodable", "Calls without a valid message.", ["method"], registry=registry
        )
        self.request_bytes = Counter("two_tower_request_bytes", "Size of requests.", ["method"], registry=registry)
        self.response_bytes = Counter("two_tower_response_bytes", "Size of responses.", ["method"], registry=registry)
        self.in_flight = Gauge("two_tower_in_flight", "Calls received and not yet answered.", registry=registry)
        self.waiting = Gauge("two_tower_queued", "Calls received whose work has not begun.", registry=registry)
        self.limit = Gauge(
            "two_tower_limit", "Calls that may wait; follows the time that they wait.", registry=registry
        )
        self.receiving = Gauge("two_tower_receiving", "Calls whose messages have not arrived.", registry=registry)
        self.batch_size = Histogram(
            "two_tower_batch_size",
            "Queries, searches or events a call.",
            ["method"],
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.unknown_values = Counter(
            "two_tower_unknown_values", "Values of queries that are in no vocabulary of the model.", registry=registry
        )
        self.batched_searches = Counter(
            "two_tower_batched_searches", "Searches that ran in one batch with those of other calls.", registry=registry
        )
        self.loads = Counter("two_tower_bundle_loads", "Bundles opened.", registry=registry)
        self.refusals = Counter("two_tower_bundle_refusals", "Bundles refused.", ["gate"], registry=registry)
        self.swap = Histogram(
            "two_tower_swap_seconds",
            "From noticing a new live bundle to answering with it.",
            buckets=_SWAP_BUCKETS_S,
            registry=registry,
        )
        self.open_bundles = Gauge("two_tower_open_bundles", "Bundles that can answer.", registry=registry)
        self.live_bundle = Info("two_tower_live_bundle", "The bundle that answers by default.", registry=registry)
        self.wanted_bundle = Info(
            "two_tower_bundle_wanted", "The bundle that the store names as live.", registry=registry
        )
        self.loading_bundle = Info("two_tower_bundle_loading", "The bundle that is being loaded.", registry=registry)
        self.store_reachable = Gauge(
            "two_tower_store_reachable", "1 while reads of the store succeed in time, else 0.", registry=registry
        )
        self.store_faults = Counter(
            "two_tower_store_faults", "Reads of the store that failed or hang.", ["kind"], registry=registry
        )
        self.store_last_read = Gauge(
            "two_tower_store_last_read_timestamp_seconds",
            "Time of the last read of the live pointer.",
            registry=registry,
        )
        self.longest_stall = Gauge(
            "two_tower_longest_stall_seconds",
            "Longest time in which the interpreter let no thread run, since the start.",
            registry=registry,
        )
        self.stalls = Counter(
            "two_tower_stalls",
            f"Times in which the interpreter let no thread run for more than {STALL_S:g} s.",
            registry=registry,
        )
        self.memory_available = Gauge(
            "two_tower_memory_available_bytes",
            "Memory that this process can still allocate: that of the machine, or of its cgroup if less.",
            registry=registry,
        )
        self.cache_bytes = Gauge("two_tower_cache_bytes", "Size of what a cache holds.", ["cache"], registry=registry)
        self.credential_reloads = Counter(
            "two_tower_credential_reloads",
            "Changed token or certificate files that were read again.",
            ["file", "result"],
            registry=registry,
        )
        for file in CREDENTIAL_FILES:
            for result in RELOAD_RESULTS:
                self.credential_reloads.labels(file, result)
        Info("two_tower_build", "The release that runs.", registry=registry).info({"version": version()})

    def start_at_zero(self, method: str, codes: Iterable[str], reasons: Iterable[str]) -> None:
        """Exports failures of a method before the first one, because a rate over a counter misses its first value.

        Args:
            method: name of the method.
            codes: names of the codes that calls may get.
            reasons: reasons for which calls may be refused, in lower case.
        """
        for code in codes:
            self.requests.labels(method, code)
        for reason in reasons:
            self.refused.labels(method, reason)

    def _seconds(self, name: str, help_text: str) -> Histogram:
        return Histogram(
            f"two_tower_{name}_seconds", help_text, ["method"], buckets=_LATENCY_BUCKETS_S, registry=self.registry
        )

    def serve(self, host: str, port: int) -> tuple[int, threading.Thread]:
        """Starts the HTTP endpoint for a scraper.

        Args:
            host: address to listen on.
            port: port to listen on; 0 chooses a free port.

        Returns:
            The port, and the thread, which ends with the process.
        """
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        return server.server_port, thread


class StallTicker:
    """A thread that measures how late it wakes up, and so how long a request would have waited for the interpreter.

    It once showed that loading a bundle held the GIL for 4.9 s, which no other metric showed.
    """

    def __init__(self, metrics: Metrics, interval_s: float = 0.01) -> None:
        """Prepares the thread.

        Args:
            metrics: receives the longest delay.
            interval_s: time between two wake-ups, in seconds.
        """
        self._metrics = metrics
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="stall-ticker", daemon=True)

    def start(self) -> None:
        """Starts the thread that measures the delays."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread that measures the delays, and waits until it has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _tick(self) -> None:
        longest_s = 0.0
        expected = time.monotonic() + self._interval_s
        while not self._stopped.wait(max(0.0, expected - time.monotonic())):
            now = time.monotonic()
            if now - expected > STALL_S:
                self._metrics.stalls.inc()
            if now - expected > longest_s:
                longest_s = now - expected
                self._metrics.longest_stall.set(longest_s)
            expected = now + self._interval_s
