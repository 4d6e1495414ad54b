"""Looks up the stored features of the users that queries name, before the queries are embedded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from query_tower_service.feature_metrics import UNAVAILABLE, UNKNOWN_USER, UNREADABLE, USED, FeatureMetrics
from retrieval.live_features.codec import StoredRecord
from retrieval.live_features.errors import FeatureStoreError, StoreFull, StoreUnavailable, UnreadableRecord
from retrieval.live_features.records import Appended, Event, Forgotten, StoredUser
from retrieval.serving.answering.errors import FeatureStoreFault
from retrieval.serving.runtime.log_budget import LogBudget
from two_tower.query.v1 import query_tower_service_pb2 as pb

if TYPE_CHECKING:  # a service without a feature store needs no redis
    from retrieval.live_features.feature_store import FeatureStore

_SHARE = 0.5
"""Largest share of the time until the deadline of a call that a lookup may take."""

_DECODED_USERS = 16
"""Number of decoded users that a call keeps for its next queries: up to a MiB each."""

_FAULTS: Mapping[type[FeatureStoreError], str] = {
    StoreFull: "the feature store is full",
    StoreUnavailable: "the feature store is away or slow",
    UnreadableRecord: "keys of a user in the feature store were not written by this service",
}

_log = structlog.get_logger("feature_store")


@dataclass(eq=False, slots=True)
class Lookup:
    """What was found for the queries of one call.

    Attributes:
        statuses: [batch] what became of each query; that of a query with a record is set when it is decoded.
        records: [batch] what is stored of the user; None without a user, and without an answer.
        metrics: Counts the outcomes.
        decoded: Users that were decoded last, by the identity of their record, and whether it can be read.
    """

    statuses: list[pb.StoredFeatures.ValueType]
    records: Sequence[StoredRecord | None]
    metrics: FeatureMetrics
    decoded: dict[int, tuple[StoredUser | None, bool]] = field(
        default_factory=dict[int, tuple[StoredUser | None, bool]]
    )

    @property
    def total_bytes(self) -> int:
        """Size of all records, in bytes; what several queries share counts once."""
        distinct = {id(record): record for record in self.records if record is not None}
        return sum(len(record.profile) + len(record.events) for record in distinct.values())

    def size_bytes(self, row: int) -> int:
        """Returns the size of the record of a query, in bytes; 0 if there is none."""
        record = self.records[row]
        return 0 if record is None else len(record.profile) + len(record.events)

    def user(self, row: int) -> StoredUser | None:
        """Returns what is stored of the user of a query; None if nothing is, or it cannot be read."""
        record = self.records[row]
        if record is None:
            return None
        user, is_readable = self._decode(record)
        if not is_readable:
            self.statuses[row] = pb.STORED_FEATURES_UNAVAILABLE
            self.metrics.looked_up(UNREADABLE)
            return None
        self.statuses[row] = pb.STORED_FEATURES_UNKNOWN_USER if user is None else pb.STORED_FEATURES_USED
        self.metrics.looked_up(UNKNOWN_USER if user is None else USED)
        return user

    def _decode(self, record: StoredRecord) -> tuple[StoredUser | None, bool]:
        """Returns the user of a record, and whether it can be read."""
        found = self.decoded.get(id(record))
        if found is None:
            try:
                found = record.decode(), True
            except UnreadableRecord:
                found = None, False
            if len(self.decoded) >= _DECODED_USERS:
                del self.decoded[next(iter(self.decoded))]
            self.decoded[id(record)] = found
        return found


def not_looked_up(users: Mapping[int, str], query_count: int, metrics: FeatureMetrics) -> Lookup | None:
    """Returns the outcome for a service without a feature store; None if no query names a user.

    Args:
        users: ids of users by the number of their query.
        query_count: number of queries of the call.
        metrics: counts the outcomes.
    """
    if not users:
        return None
    statuses = [pb.STORED_FEATURES_UNSPECIFIED] * query_count
    for row in users:
        statuses[row] = pb.STORED_FEATURES_NOT_CONFIGURED
    return Lookup(statuses, [None] * query_count, metrics)


class StoredFeatures:
    """The feature store, as the methods of the service use it. Used by one event loop.

    The first failure and the recovery are logged, within a budget; metrics count the others.
    """

    def __init__(self, store: FeatureStore, max_events: int, metrics: FeatureMetrics) -> None:
        """Takes the store, the largest number of events of a user, and the metrics."""
        self._store = store
        self.max_events = max_events
        self._metrics = metrics
        self._faults = {"read": 0, "write": 0}
        self._log_budget = LogBudget(time.monotonic())
        metrics.circuit.labels("read").set_function(lambda: store.read_circuit)
        metrics.circuit.labels("write").set_function(lambda: store.write_circuit)

    async def look_up(self, users: Mapping[int, str], query_count: int, newest: int, deadline: float) -> Lookup:
        """Returns what is stored of the users of a call. Never fails.

        Args:
            users: ids of users by the number of their query; not empty.
            query_count: number of queries of the call.
            newest: largest number of events of each user.
            deadline: deadline of the call, in seconds of the monotonic clock.
        """
        started = time.monotonic()
        statuses = [pb.STORED_FEATURES_UNSPECIFIED] * query_count
        records: list[StoredRecord | None] = [None] * query_count
        distinct = list(dict.fromkeys(users.values()))
        try:
            found = await self._store.read(distinct, newest, _SHARE * (deadline - started))
        except FeatureStoreError as error:
            self._failed("read", error)
            self._metrics.looked_up(UNAVAILABLE, len(users))
            for row in users:
                statuses[row] = pb.STORED_FEATURES_UNAVAILABLE
        else:
            self._succeeded("read")
            by_user = dict(zip(distinct, found, strict=True))
            for row, user_id in users.items():
                records[row] = by_user[user_id]
                if records[row] is None:
                    statuses[row] = pb.STORED_FEATURES_UNAVAILABLE
                    self._metrics.looked_up(UNAVAILABLE)
        self._metrics.lookup_seconds.observe(time.monotonic() - started)
        return Lookup(statuses, records, self._metrics)

    async def record(self, events: Sequence[Event], deadline: float) -> Appended:
        """Adds events, and returns what became of them.

        Args:
            events: events without faults.
            deadline: deadline of the call, in seconds of the monotonic clock.

        Raises:
            FeatureStoreFault: they cannot be written, or not all.
        """
        try:
            appended = await self._store.append(events, deadline - time.monotonic())
        except FeatureStoreError as error:
            raise self._failed("write", error) from None
        self._succeeded("write")
        self._metrics.recorded(appended)
        return appended

    async def forget(self, user_id: str, deadline: float) -> Forgotten:
        """Deletes all that is stored of a user.

        Args:
            user_id: id of the user.
            deadline: deadline of the call, in seconds of the monotonic clock.

        Raises:
            FeatureStoreFault: it cannot be deleted.
        """
        try:
            forgotten = await self._store.forget(user_id, deadline - time.monotonic())
        except FeatureStoreError as error:
            raise self._failed("write", error) from None
        self._succeeded("write")
        return forgotten

    def _failed(self, operation: str, error: FeatureStoreError) -> FeatureStoreFault:
        self._faults[operation] += 1
        if operation == "write":
            self._metrics.write_faults.inc()
        if self._faults[operation] == 1 and self._log_budget.spend(time.monotonic()):
            _log.warning(
                "feature store does not answer; queries are embedded with what they carry, and events are refused",
                operation=operation,
                store=self._store.shown,
                why=str(error),
            )
        # What a caller gets does not name the address of the store; the log does.
        fault = next((text for kind, text in _FAULTS.items() if isinstance(error, kind)), str(error))
        return FeatureStoreFault(f"{fault}; retry with backoff: an event that was recorded is not recorded again")

    def _succeeded(self, operation: str) -> None:
        faults, self._faults[operation] = self._faults[operation], 0
        if faults and self._log_budget.spend(time.monotonic()):
            _log.info("feature store answers again", operation=operation, store=self._store.shown, failures=faults)
