"""The RPCs of the query tower service."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from query_tower_service.embed_queries import EmbedQueries, EmbedStoredQueries, open_models
from query_tower_service.event_methods import event_methods
from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.loader import Model
from query_tower_service.query_log import QueryLog
from query_tower_service.served_log.tables import ServedTables
from query_tower_service.stored_features import StoredFeatures
from retrieval.bundle.features.event_kinds import EventValue
from retrieval.bundle.features.schema import Feature
from retrieval.serving.answering.call import Method
from retrieval.serving.answering.loop_work import LoopWork
from retrieval.serving.answering.quick_method import QuickMethod
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.metrics import Metrics
from two_tower.query.v1 import query_tower_service_pb2 as pb

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


def methods(
    open_bundles: OpenBundles[Model],
    max_batch_size: int,
    metrics: Metrics,
    features: FeatureMetrics,
    query_log: QueryLog | None = None,
    stored: StoredFeatures | None = None,
    served: ServedTables | None = None,
) -> list[Method]:
    """Returns the methods of the query tower service.

    Args:
        open_bundles: open models.
        max_batch_size: largest number of queries or events of a call.
        metrics: metrics of the server.
        features: metrics of the feature store.
        query_log: log of a sample of the queries; None: there is none.
        stored: feature store; None: there is none.
        served: served log; None: there is none.
    """
    loop_work = LoopWork()

    def status(_: Message) -> pb.GetServingStatusResponse:
        return _status(open_bundles, max_batch_size)

    if stored is None:
        embed = EmbedQueries(open_bundles, max_batch_size, metrics, features, query_log, served)
    else:
        embed = EmbedStoredQueries(
            open_bundles, max_batch_size, metrics, features, query_log, served, stored, loop_work
        )
    return [
        embed,
        *event_methods(stored, max_batch_size, metrics, loop_work, served),
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
