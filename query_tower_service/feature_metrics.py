"""Prometheus metrics of the feature store."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from retrieval.live_features.records import Appended

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

USED, UNKNOWN_USER, UNAVAILABLE, UNREADABLE = "used", "unknown_user", "unavailable", "unreadable"
OPERATIONS = ("read", "write")


class FeatureMetrics:
    """Counts what the feature store does. Safe for several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers the metrics, at zero."""
        self._lookups = Counter(
            "two_tower_feature_lookups",
            "Queries that name a user: stored features used, user unknown, store unavailable, or record unreadable.",
            ["outcome"],
            registry=registry,
        )
        self.lookup_seconds = Histogram(
            "two_tower_feature_lookup_seconds",
            "Time that a call waited for the stored features of its users.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.wrong_values = Counter(
            "two_tower_feature_wrong_values",
            "Stored values that a model could not read because they are of another type, and that counted as missing.",
            registry=registry,
        )
        self._events = Counter(
            "two_tower_events",
            "Events received: recorded, already there, or too old for a full history.",
            ["outcome"],
            registry=registry,
        )
        self.write_faults = Counter(
            "two_tower_feature_write_faults",
            "Calls that failed because the feature store could not be written.",
            registry=registry,
        )
        self.circuit = Gauge(
            "two_tower_feature_circuit",
            "Circuit of the feature store: 0 closed, 1 one try, 2 open after failures in a row.",
            ["operation"],
            registry=registry,
        )
        for outcome in (USED, UNKNOWN_USER, UNAVAILABLE, UNREADABLE):
            self._lookups.labels(outcome)
        for operation in OPERATIONS:
            self.circuit.labels(operation)
        self.recorded(Appended())

    def looked_up(self, outcome: str, count: int = 1) -> None:
        """Counts queries that name a user."""
        self._lookups.labels(outcome).inc(count)

    def recorded(self, appended: Appended) -> None:
        """Counts events."""
        self._events.labels("recorded").inc(appended.recorded)
        self._events.labels("already_there").inc(appended.already_there)
        self._events.labels("too_old").inc(appended.too_old)
