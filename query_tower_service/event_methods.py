"""The RPCs that write to the feature store. Their work is to wait for the store, so the event loop does it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from query_tower_service.event_requests import parse_events, parse_user
from query_tower_service.served_log.tables import ServedTables
from query_tower_service.stored_features import StoredFeatures
from retrieval.serving.answering.call import Call, Method
from retrieval.serving.answering.errors import NoFeatureStore
from retrieval.serving.answering.loop_work import LoopWork
from retrieval.serving.runtime.credentials import WRITE
from retrieval.serving.runtime.metrics import Metrics
from two_tower.query.v1 import query_tower_service_pb2 as pb


class _StoreMethod:
    """What the methods have in common: everything is done when a call is prepared.

    Attributes:
        name, max_shared, scope, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    name = ""
    max_shared = 1
    scope = WRITE
    is_quick = False

    def __init__(self, stored: StoredFeatures | None) -> None:
        """Takes the feature store; None if the service has none."""
        self._stored = stored

    def is_short(self, call: Call) -> bool:
        """Returns True."""
        return True

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Does nothing: `prepare` has answered the calls."""
        yield from ()

    def _open(self) -> StoredFeatures:
        if self._stored is None:
            raise NoFeatureStore()
        return self._stored


class RecordEvents(_StoreMethod):
    """The method RecordEvents: adds events to histories of users."""

    name = "RecordEvents"
    _request: type[pb.RecordEventsRequest | pb.RecordEventsStreamRequest] = pb.RecordEventsRequest
    _response: type[pb.RecordEventsResponse | pb.RecordEventsStreamResponse] = pb.RecordEventsResponse

    def __init__(
        self,
        stored: StoredFeatures | None,
        max_events: int,
        metrics: Metrics,
        loop_work: LoopWork,
        served: ServedTables | None = None,
    ) -> None:
        """Takes the feature store, the largest number of events of a request, metrics, and what decodes requests.

        The served log, if there is one, gets the events that were recorded.
        """
        super().__init__(stored)
        self._max_events = max_events
        self._batch_size = metrics.batch_size.labels(self.name)
        self._loop_work = loop_work
        self._served = served

    async def prepare(self, call: Call) -> bool:
        """Records the events of a call; see `retrieval.serving.answering.call.PreparedMethod.prepare`."""
        stored = self._open()
        steps = parse_events(call.body, self._request, self._max_events, time.time())
        events = await self._loop_work.run(steps)
        call.size = len(events)
        self._batch_size.observe(call.size)
        done = await stored.record(events, call.deadline)
        if self._served is not None:
            self._served.record_events(events, len(call.body))
        call.response = self._response(
            recorded=done.recorded, already_there=done.already_there, too_old=done.too_old
        ).SerializeToString()
        return True


class RecordEventsStream(RecordEvents):
    """The method RecordEventsStream: the same for any number of messages."""

    name = "RecordEventsStream"
    _request = pb.RecordEventsStreamRequest
    _response = pb.RecordEventsStreamResponse

    def join(self, first: bytes, second: bytes) -> bytes:
        """Returns the sums of two responses."""
        one, other = map(pb.RecordEventsStreamResponse.FromString, (first, second))
        return pb.RecordEventsStreamResponse(
            recorded=one.recorded + other.recorded,
            already_there=one.already_there + other.already_there,
            too_old=one.too_old + other.too_old,
        ).SerializeToString()


class ForgetUser(_StoreMethod):
    """The method ForgetUser: deletes all that is stored of a user."""

    name = "ForgetUser"

    async def prepare(self, call: Call) -> bool:
        """Forgets the user of a call; see `retrieval.serving.answering.call.PreparedMethod.prepare`."""
        stored = self._open()
        done = await stored.forget(parse_user(call.body), call.deadline)
        call.response = pb.ForgetUserResponse(
            events=done.events, profile_values=done.profile_values, remaining=done.remaining
        ).SerializeToString()
        return True


def event_methods(
    stored: StoredFeatures | None,
    max_events: int,
    metrics: Metrics,
    loop_work: LoopWork,
    served: ServedTables | None = None,
) -> list[Method]:
    """Returns the methods that write to the feature store."""
    return [
        RecordEvents(stored, max_events, metrics, loop_work, served),
        RecordEventsStream(stored, max_events, metrics, loop_work, served),
        ForgetUser(stored),
    ]
