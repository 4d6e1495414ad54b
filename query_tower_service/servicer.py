"""The RPCs of the query tower service."""

from __future__ import annotations

import time
from typing import Any

import grpc

from query_tower_service import requests, responses
from query_tower_service.loader import Model
from query_tower_service.query_log import QueryLog
from retrieval.bundle.features.event_kinds import EventValue
from retrieval.bundle.features.schema import Feature
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.errors import ModelNotServed, NoBundle
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.metrics import Metrics
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["QueryTowerService"].full_name

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


class QueryTowerServicer(query_tower_service_pb2_grpc.QueryTowerServiceServicer):
    """Embeds queries with the open models. Safe for several threads."""

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
        self._batch_size = metrics.batch_size.labels("EmbedQueries")
        self._query_log = query_log

    def EmbedQueries(self, request: pb.EmbedQueriesRequest, context: grpc.ServicerContext) -> pb.EmbedQueriesResponse:
        """Returns one embedding for each query.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        queries = request.queries
        count = len(queries)
        requests.check_batch_size(count, self._max_batch_size)
        self._batch_size.observe(count)
        model = _pick(self._open_bundles.snapshot, request.model_version)
        now_s = time.time() if model.tower.reads_request_time else None
        columns = model.parser.parse(queries, now_s)
        embeddings = model.tower.embed(columns, count)
        if self._query_log is not None:
            self._query_log.record(queries, now_s)
        return responses.build(embeddings, model.version)

    def GetServingStatus(
        self, request: pb.GetServingStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetServingStatusResponse:
        """Returns the open models, and the bundles that were refused."""
        snapshot = self._open_bundles.snapshot
        response = build_status(
            pb.GetServingStatusResponse, self._open_bundles, snapshot, max_batch_size=self._max_batch_size
        )
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
