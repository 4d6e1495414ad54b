"""The RPCs of the query tower service."""

from __future__ import annotations

import functools
import time
from typing import Any

import grpc
import numpy as np

from bundle.event_values import EventValue
from bundle.features import Feature
from query_tower_service.loading import Model
from query_tower_service.query_log import QueryLog
from query_tower_service.validation import check_batch
from serving.errors import ModelNotServed, NoBundle
from serving.live import Live, Snapshot
from serving.metrics import Metrics
from serving.server import add_methods
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

_WIRE_FLOAT = np.dtype("<f4")


class QueryTowerServicer:
    """Answers with the open models; safe for several threads."""

    def __init__(
        self, live: Live[Model], max_batch_size: int, metrics: Metrics, query_log: QueryLog | None = None
    ) -> None:
        """Takes the open models, the largest batch, where batch sizes are noted, and what records queries if any."""
        self._live = live
        self._max_batch_size = max_batch_size
        self._batch_size = metrics.batch_size.labels("EmbedQueries")
        self._query_log = query_log

    def add_to(self, server: grpc.Server) -> None:
        """Lets `server` answer with this; embeddings are bytes, see `to_response`."""
        handlers = {
            "EmbedQueries": grpc.unary_unary_rpc_method_handler(self.EmbedQueries, pb.EmbedQueriesRequest.FromString),
            "GetServingStatus": grpc.unary_unary_rpc_method_handler(
                self.GetServingStatus,
                pb.GetServingStatusRequest.FromString,
                pb.GetServingStatusResponse.SerializeToString,
            ),
        }
        add_methods(server, SERVICE_NAME, handlers)

    def EmbedQueries(self, request: pb.EmbedQueriesRequest, context: grpc.ServicerContext) -> bytes:
        """Returns an EmbedQueriesResponse: one embedding a query.

        Raises:
            ServiceError: as the proto lists them.
        """
        queries = request.queries
        count = len(queries)
        check_batch(count, self._max_batch_size)
        self._batch_size.observe(count)
        model = _pick(self._live.snapshot, request.model_version)
        now_s = time.time() if model.tower.reads_request_time else None
        embeddings = model.tower.embed(model.reader.read(queries, now_s), count)
        if self._query_log is not None:
            self._query_log.record(queries, now_s)
        return to_response(embeddings, model.version)

    def GetServingStatus(
        self, request: pb.GetServingStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetServingStatusResponse:
        """Returns what is open."""
        snapshot = self._live.snapshot
        response = pb.GetServingStatusResponse(
            max_batch_size=self._max_batch_size,
            live_bundle_version=snapshot.live_version,
            loading_bundle_version=snapshot.loading_version,
            worker=self._live.worker,
            worker_count=self._live.worker_count,
        )
        opened_at_ms: dict[str, int] = {}
        for served in snapshot.open:
            version = served.bundle.version
            opened_at_ms[version] = min(served.opened_at_ms, opened_at_ms.get(version, served.opened_at_ms))
        models = {served.bundle.version: served.bundle for served in reversed(snapshot.open)}
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
        for problem in snapshot.problems:
            response.problems.add(
                bundle_version=problem.version,
                gate=problem.gate,
                message=problem.message,
                refused_at_ms=problem.refused_at_ms,
            )
        return response


def to_response(embeddings: np.ndarray, model_version: str) -> bytes:
    """Returns the EmbedQueriesResponse with these embeddings, on the wire.

    The floats of a packed field stand there as they do in memory, so there is no Python float for each.

    Args:
        embeddings: [batch, dim] float32.
        model_version: that made them.
    """
    head, size = _wire_head(embeddings.shape[-1]), 4 * embeddings.shape[-1]
    raw = embeddings.astype(_WIRE_FLOAT, copy=False).tobytes()
    if len(embeddings) == 1:  # of most requests, and no loop for one
        return b"".join((head, raw, _wire_tail(model_version)))
    parts = [head + raw[at : at + size] for at in range(0, len(raw), size)]
    return b"".join((*parts, _wire_tail(model_version)))


@functools.cache
def _wire_head(dimension: int) -> bytes:
    """Returns what stands before the floats of each embedding on the wire."""
    row = pb.EmbedQueriesResponse(embeddings=[pb.Embedding(values=[0.0] * dimension)]).SerializeToString()
    return row[: len(row) - 4 * dimension]


@functools.lru_cache(maxsize=64)
def _wire_tail(model_version: str) -> bytes:
    """Returns what says on the wire which model made the embeddings."""
    return pb.EmbedQueriesResponse(model_version=model_version).SerializeToString()


def open_models(snapshot: Snapshot[Model]) -> list[str]:
    """Returns the open models, each once, the live one first."""
    return list(dict.fromkeys(served.bundle.version for served in snapshot.open))


def _pick(snapshot: Snapshot[Model], model_version: str) -> Model:
    if not snapshot.open:
        raise NoBundle()
    if not model_version:
        return snapshot.open[0].bundle
    for served in snapshot.open:
        if served.bundle.version == model_version:
            return served.bundle
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
