"""The method EmbedQueries.

```
                      ┌─ with a feature store: decode ─► look up the users ─┐ in the event loop
call ─► admitted ─────┤                                                     ├─► queue ─► parse ─► merge ─► embed
                      └─ without one ───────────────────────────────────────┘
```
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from query_tower_service import requests, responses
from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.loader import Model
from query_tower_service.merging import Merger, Row
from query_tower_service.query_log import QueryLog
from query_tower_service.served_log.tables import ServedTables
from query_tower_service.stored_features import Lookup, StoredFeatures, not_looked_up
from retrieval.serving.answering.call import SMALL_BYTES, Call
from retrieval.serving.answering.errors import InvalidRequest, ModelNotServed, NoBundle
from retrieval.serving.answering.loop_work import LoopWork
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.credentials import READ
from retrieval.serving.runtime.metrics import Metrics
from retrieval.steps import Steps
from two_tower.query.v1 import query_tower_service_pb2 as pb

_QUERIES_A_STEP = 32
_BYTES_A_STEP = 16_384
"""Number of queries that are embedded without a pause, and their size together: about a millisecond of work."""

_LARGEST_HISTORIES_BYTES = 4 << 20
"""Largest size of the histories of an answer, in bytes."""
_TOO_LARGE = f"histories of more than {_LARGEST_HISTORIES_BYTES} bytes; send fewer queries at once"


@dataclass(frozen=True, eq=False, slots=True)
class Opened:
    """A call that was decoded.

    Attributes:
        request: Request, without its queries if they are many.
        queries: Queries, 1 to the largest batch size.
        model: Model that answers.
        lookup: What became of the queries that name users; None if none does.
    """

    request: pb.EmbedQueriesRequest
    queries: Sequence[pb.Query]
    model: Model
    lookup: Lookup | None


class EmbedQueries:
    """The method EmbedQueries: one embedding for each query of a request, all by one model.

    Attributes:
        name, max_shared, scope, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    name = "EmbedQueries"
    max_shared = 1
    scope = READ
    is_quick = False

    def __init__(
        self,
        open_bundles: OpenBundles[Model],
        max_batch_size: int,
        metrics: Metrics,
        features: FeatureMetrics,
        query_log: QueryLog | None = None,
        served: ServedTables | None = None,
    ) -> None:
        """Takes the open models, the largest batch size, metrics, and the query log and served log if there are any."""
        self._open_bundles = open_bundles
        self._max_batch_size = max_batch_size
        self._batch_size = metrics.batch_size.labels(self.name)
        self._unknown_values = metrics.unknown_values
        self._features = features
        self._query_log = query_log
        self._served = served

    def is_short(self, call: Call) -> bool:
        """Returns whether a call is small, and the newest model reads no texts."""
        snapshot = self._open_bundles.snapshot
        return len(call.body) <= SMALL_BYTES and bool(snapshot.open) and not snapshot.open[0].bundle.tower.reads_text

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers calls; see `retrieval.serving.answering.call.Method.answer`."""
        for call in calls:
            response = yield from call.run(self._embed(call))
            call.response = response or b""

    def _embed(self, call: Call) -> Steps[bytes]:
        """Returns the response to a call.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        request, queries = yield from requests.decode_request(call.body, self._max_batch_size)
        model = pick(self._open_bundles.snapshot, request.model_version)
        lookup = not_looked_up(requests.users_of(queries), len(queries), self._features)
        return (yield from self._compute(call, Opened(request, queries, model, lookup)))

    def _compute(self, call: Call, opened: Opened) -> Steps[bytes]:
        """Returns the response to a call that was decoded.

        Raises:
            InvalidRequest: queries are invalid, it lists up to 20 violations; or the histories are too large.
        """
        queries, model, lookup = opened.queries, opened.model, opened.lookup
        call.size, call.model_version, call.bundle_version = len(queries), model.version, model.bundle_version
        self._batch_size.observe(call.size)
        now_s = time.time() if model.tower.reads_request_time else None
        parts = [queries] if len(call.body) <= SMALL_BYTES and lookup is None else _divide(queries, lookup)
        rows = yield from _parse(model, parts)
        stored: dict[int, Row] = {}
        histories = list[pb.QueryHistory]() if opened.request.return_histories else None
        response = pb.EmbedQueriesResponse(model_version=model.version)
        first = histories_bytes = 0
        for part in rows:
            if lookup is not None or histories is not None:
                stored |= self._complete(model.merger, first, part, lookup, histories)
                histories_bytes += sum(history.ByteSize() for history in (histories or ())[first:])
                if histories_bytes > _LARGEST_HISTORIES_BYTES:
                    raise InvalidRequest([("return_histories", _TOO_LARGE)])
            columns = requests.to_columns(part, now_s)
            responses.add(response, *model.tower.embed_and_count(columns, len(part)))
            first += len(part)
            if len(parts) > 1:
                yield
        if lookup is not None or histories is not None:
            responses.add_stored(response, () if lookup is None else lookup.statuses, histories)
        if response.unknown_values:
            self._unknown_values.inc(sum(response.unknown_values))
        if self._query_log is not None:
            self._query_log.record(queries, now_s, stored)
        if self._served is not None:
            self._served.record_queries(queries, stored, now_s, response)
        return response.SerializeToString()

    def _complete(
        self,
        merger: Merger,
        first: int,
        rows: Sequence[Row],
        lookup: Lookup | None,
        histories: list[pb.QueryHistory] | None,
    ) -> dict[int, Row]:
        """Adds stored features to queries, and returns what was added, by the number of the query.

        Args:
            merger: merger of the model.
            first: number of the first of these queries in the request.
            rows: parsed values of the queries; they are changed.
            lookup: what was found for the queries of the request; None if none names a user.
            histories: gets the history of each query; None if the request does not ask for them.
        """
        added: dict[int, Row] = {}
        for number, row in enumerate(rows, first):
            user = None if lookup is None else lookup.user(number)
            if histories is not None:
                histories.append(pb.QueryHistory(item_ids=merger.item_ids(row, user)))
            if user is not None:
                added[number] = merger.add(row, user, self._features.wrong_values.inc)
        return added


class EmbedStoredQueries(EmbedQueries):
    """The method EmbedQueries of a service with a feature store, which is read before a call is queued."""

    def __init__(
        self,
        open_bundles: OpenBundles[Model],
        max_batch_size: int,
        metrics: Metrics,
        features: FeatureMetrics,
        query_log: QueryLog | None,
        served: ServedTables | None,
        stored: StoredFeatures,
        loop_work: LoopWork,
    ) -> None:
        """Takes the parts of `EmbedQueries`, the feature store, and what decodes requests in the event loop."""
        super().__init__(open_bundles, max_batch_size, metrics, features, query_log, served)
        self._stored = stored
        self._loop_work = loop_work

    async def prepare(self, call: Call) -> bool:
        """Decodes a call and looks up its users; see `retrieval.serving.answering.call.PreparedMethod.prepare`."""
        request, queries = await self._loop_work.run(requests.decode_request(call.body, self._max_batch_size))
        model = pick(self._open_bundles.snapshot, request.model_version)
        users = requests.users_of(queries)
        lookup = None
        if users:
            newest = self._stored.max_events if request.return_histories else model.merger.newest
            lookup = await self._stored.look_up(users, len(queries), newest, call.deadline)
            call.prepared_bytes = lookup.total_bytes
        call.prepared = Opened(request, queries, model, lookup)
        return False

    def is_short(self, call: Call) -> bool:
        """Returns whether a call is small, also with what is stored, and its model reads no texts."""
        opened: Opened = call.prepared
        return len(call.body) + call.prepared_bytes <= SMALL_BYTES and not opened.model.tower.reads_text

    def _embed(self, call: Call) -> Steps[bytes]:
        return (yield from self._compute(call, call.prepared))


def _divide(queries: Sequence[pb.Query], lookup: Lookup | None) -> list[Sequence[pb.Query]]:
    """Returns the queries in parts, in order, each of which takes about a millisecond, with what is stored."""
    parts: list[list[pb.Query]] = [[]]
    total = 0
    for number, query in enumerate(queries):
        size = query.ByteSize() + (0 if lookup is None else lookup.size_bytes(number))
        total += size
        if parts[-1] and (len(parts[-1]) >= _QUERIES_A_STEP or total > _BYTES_A_STEP):
            parts.append([])
            total = size
        parts[-1].append(query)
    return [*parts]


def _parse(model: Model, parts: Sequence[Sequence[pb.Query]]) -> Steps[list[list[Row]]]:
    """Returns the values of the queries of each part of a request. Pauses between the parts.

    Raises:
        InvalidRequest: queries are invalid; it lists up to 20 violations.
    """
    rows: list[list[Row]] = []
    violations: list[tuple[str, str]] = []
    first = 0
    for part in parts:
        try:
            rows.append(model.parser.parse_rows(part, first))
        except InvalidRequest as error:
            violations += error.violations
            if len(violations) >= requests.MAX_VIOLATIONS:
                break
        first += len(part)
        if len(parts) > 1:
            yield
    if violations:
        raise InvalidRequest(violations[: requests.MAX_VIOLATIONS])
    return rows


def open_models(snapshot: Snapshot[Model]) -> list[str]:
    """Returns the versions of the open models, each once, the live one first."""
    return list(dict.fromkeys(open_bundle.bundle.version for open_bundle in snapshot.open))


def pick(snapshot: Snapshot[Model], model_version: str) -> Model:
    """Returns the open model of a version; the live one if the version is empty.

    Raises:
        NoBundle: no bundle is open.
        ModelNotServed: no open bundle is of this model.
    """
    if not snapshot.open:
        raise NoBundle()
    if not model_version:
        return snapshot.open[0].bundle
    for open_bundle in snapshot.open:
        if open_bundle.bundle.version == model_version:
            return open_bundle.bundle
    raise ModelNotServed(model_version, open_models(snapshot))
