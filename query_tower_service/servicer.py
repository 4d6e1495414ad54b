"""The RPCs of the query tower service."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import Message

from query_tower_service import requests, responses
from query_tower_service.loader import Model
from query_tower_service.query_log import QueryLog
from retrieval.bundle.features.event_kinds import EventValue
from retrieval.bundle.features.schema import Feature
from retrieval.serving.answering.call import SMALL_BYTES, Call, Method
from retrieval.serving.answering.errors import InvalidRequest, ModelNotServed, NoBundle
from retrieval.serving.answering.quick_method import QuickMethod
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.metrics import Metrics
from retrieval.steps import Steps
from two_tower.query.v1 import query_tower_service_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["QueryTowerService"].full_name

_QUERIES_A_STEP = 32
_BYTES_A_STEP = 16_384
"""Number of queries that are embedded without a pause, and their size together: about a millisecond of work."""

_KINDS: dict[str, pb.FeatureKind.ValueType] = {
    "categorical": pb.FEATURE_KIND_CATEGORICAL,
    "numeric": pb.FEATURE_KIND_NUMERIC,
    "history": pb.FEATURE_KIND_HISTORY,
    "multi_categorical": pb.FEATURE_KIND_MULTI_CATEGORICAL,
    "text": pb.FEATURE_KIND_TEXT,
    "history_categorical": pb.FEATURE_KIND_CATEGORICAL,
    "history_numeric": pb.FEATURE_KIND_NUMERIC,
    "history_times": pb.FEATURE_KIND_TIME,
    "request_time": pb.FEATURE_KIND_TIME,
}
_VALUE_TYPES: dict[str, pb.ValueType.ValueType] = {
    "string": pb.VALUE_TYPE_STRING,
    "int": pb.VALUE_TYPE_INT,
    "float": pb.VALUE_TYPE_FLOAT,
}


class EmbedQueries:
    """The method EmbedQueries: one embedding for each query of a request, all by one model.

    Attributes:
        name, max_shared, needs_admin, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    name = "EmbedQueries"
    max_shared = 1
    needs_admin = False
    is_quick = False

    def __init__(
        self,
        open_bundles: OpenBundles[Model],
        max_batch_size: int,
        metrics: Metrics,
        query_log: QueryLog | None = None,
    ) -> None:
        """Takes the open models, the largest batch size, the metrics, and the query log if there is one."""
        self._open_bundles = open_bundles
        self._max_batch_size = max_batch_size
        self._batch_size = metrics.batch_size.labels(self.name)
        self._unknown_values = metrics.unknown_values
        self._query_log = query_log

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
        count = len(queries)
        self._batch_size.observe(count)
        model = _pick(self._open_bundles.snapshot, request.model_version)
        call.size, call.model_version, call.bundle_version = count, model.version, model.bundle_version
        now_s = time.time() if model.tower.reads_request_time else None
        parts = [queries] if len(call.body) <= SMALL_BYTES else _divide(queries)
        columns = yield from _parse(model, parts, now_s)
        response = pb.EmbedQueriesResponse(model_version=model.version)
        for part, values in zip(parts, columns, strict=True):
            responses.add(response, *model.tower.embed_and_count(values, len(part)))
            if len(parts) > 1:
                yield
        if response.unknown_values:
            self._unknown_values.inc(sum(response.unknown_values))
        if self._query_log is not None:
            self._query_log.record(queries, now_s)
        return response.SerializeToString()


def _divide(queries: Sequence[pb.Query]) -> list[Sequence[pb.Query]]:
    """Returns the queries in parts, in order, each of which takes about a millisecond."""
    parts: list[list[pb.Query]] = [[]]
    size = 0
    for query in queries:
        size += query.ByteSize()
        if parts[-1] and (len(parts[-1]) >= _QUERIES_A_STEP or size > _BYTES_A_STEP):
            parts.append([])
            size = query.ByteSize()
        parts[-1].append(query)
    return [*parts]


def _parse(model: Model, parts: Sequence[Sequence[pb.Query]], now_s: float | None) -> Steps[list[dict[str, list[Any]]]]:
    """Returns the feature columns of each part of the queries of a request. Pauses between the parts.

    Raises:
        InvalidRequest: queries are invalid; it lists up to 20 violations.
    """
    columns: list[dict[str, list[Any]]] = []
    violations: list[tuple[str, str]] = []
    first = 0
    for part in parts:
        try:
            columns.append(model.parser.parse(part, now_s, first))
        except InvalidRequest as error:
            violations += error.violations
            if len(violations) >= requests.MAX_VIOLATIONS:
                break
        first += len(part)
        if len(parts) > 1:
            yield
    if violations:
        raise InvalidRequest(violations[: requests.MAX_VIOLATIONS])
    return columns


def methods(
    open_bundles: OpenBundles[Model], max_batch_size: int, metrics: Metrics, query_log: QueryLog | None = None
) -> list[Method]:
    """Returns the methods of the query tower service; see `EmbedQueries`."""

    def status(_: Message) -> pb.GetServingStatusResponse:
        return _status(open_bundles, max_batch_size)

    return [
        EmbedQueries(open_bundles, max_batch_size, metrics, query_log),
        QuickMethod("GetServingStatus", pb.GetServingStatusRequest, status),
    ]


def _status(open_bundles: OpenBundles[Model], max_batch_size: int) -> pb.GetServingStatusResponse:
    """Returns the open models, and the bundles that were refused."""
    snapshot = open_bundles.snapshot
    response = build_status(pb.GetServingStatusResponse, open_bundles, snapshot, max_batch_size=max_batch_size)
    opened_at_ms: dict[str, int] = {}
    for open_bundle in snapshot.open:
        version = open_bundle.bundle.version
        opened_at_ms[version] = min(open_bundle.opened_at_ms, opened_at_ms.get(version, open_bundle.opened_at_ms))
    models = {open_bundle.bundle.version: open_bundle.bundle for open_bundle in reversed(snapshot.open)}
    for version in open_models(snapshot):
        model = models[version]
        response.models.add(
            model_version=version,
            bundle_version=model.bundle_version,
            dimension=model.tower.dimension,
            features=[_describe(feature) for feature in model.tower.schema.features],
            opened_at_ms=opened_at_ms[version],
        )
    if response.models:
        response.newest_model_version = response.models[0].model_version
    return response


def open_models(snapshot: Snapshot[Model]) -> list[str]:
    """Returns the versions of the open models, each once, the live one first."""
    return list(dict.fromkeys(open_bundle.bundle.version for open_bundle in snapshot.open))


def _pick(snapshot: Snapshot[Model], model_version: str) -> Model:
    if not snapshot.open:
        raise NoBundle()
    if not model_version:
        return snapshot.open[0].bundle
    for open_bundle in snapshot.open:
        if open_bundle.bundle.version == model_version:
            return open_bundle.bundle
    raise ModelNotServed(model_version, open_models(snapshot))


def _describe(feature: Feature) -> pb.Feature:
    fields: dict[str, Any] = {
        "name": feature.name,
        "kind": _KINDS.get(feature.kind, pb.FEATURE_KIND_UNSPECIFIED),
        "value_type": _VALUE_TYPES[feature.value_type],
        "max_values": feature.max_values,
        "description": feature.description,
        "history": feature.history if isinstance(feature, EventValue) else "",
    }
    return pb.Feature(**fields)
