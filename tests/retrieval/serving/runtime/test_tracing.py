"""Spans of both services, received by a collector. Needs the extra telemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import Replica
from tests.harness import ann_service, query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc
from two_tower_client import Retriever

pytest.importorskip("opentelemetry.sdk", reason="needs the extra telemetry")

from testbed.telemetry.collector import Collector

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

REQUEST = pb.EmbedQueriesRequest(queries=[pb.Query()])
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-"
QUERY_TOWER, ANN = "two_tower.query.v1.QueryTowerService", "two_tower.ann.v1.AnnService"
SERVER, CLIENT = 2, 3
"""Kinds of a span in OTLP (opentelemetry/proto/trace/v1/trace.proto)."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def application_tracer(collector: Collector) -> tuple[Tracer, object]:
    """Returns a tracer as an application sets it up, and its provider."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector.endpoint)))
    return provider.get_tracer("shop"), provider


def test_a_request_is_one_trace_through_client_and_both_services(filled: FolderStore, collector: Collector) -> None:
    from opentelemetry.trace import SpanKind

    tracer, _ = application_tracer(collector)
    version = filled.live().version  # pyright: ignore[reportOptionalMemberAccess]
    with (
        query_tower_service(filled, otlp_endpoint=collector.endpoint) as query_tower,
        ann_service(filled, otlp_endpoint=collector.endpoint) as ann,
    ):
        query_tower.wait_until_serving()
        ann.wait_until_serving()
        addresses = [f"127.0.0.1:{service.port}" for service in (query_tower, ann)]
        with (
            Retriever(*addresses, timeout_s=20) as retriever,
            tracer.start_as_current_span("recommend", kind=SpanKind.CLIENT),
        ):
            retriever.retrieve({"age": 30.0}, k=3, request_id="order-17")
    spans = {span.service: span for span in collector.spans if span.name != f"{ANN}/GetServingStatus"}
    assert spans.keys() == {"shop", QUERY_TOWER, ANN}
    root = spans["shop"]
    assert (root.kind, root.parent_id) == (CLIENT, "")
    for service, method, size in ((QUERY_TOWER, "EmbedQueries", 1), (ANN, "SearchItems", 1)):
        span = spans[service]
        assert (span.name, span.kind, span.is_error) == (f"{service}/{method}", SERVER, False)
        assert (span.trace_id, span.parent_id) == (root.trace_id, root.span_id)
        assert 0 < span.seconds < root.seconds
        expected = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": 0,
            "two_tower.request_id": "order-17",
            "two_tower.size": size,
            "two_tower.bundle_version": version,
        }
        assert {key: span.attributes[key] for key in expected} == expected
        assert span.attributes["two_tower.model_version"]
        assert span.attributes["two_tower.queue_seconds"] >= 0
        assert 0 < span.attributes["two_tower.work_seconds"] < span.seconds
    assert len({span.span_id for span in spans.values()}) == 3


def test_a_failed_call_has_its_code_and_the_decision_of_the_caller_is_respected(
    filled: FolderStore, collector: Collector
) -> None:
    with query_tower_service(filled, otlp_endpoint=collector.endpoint) as service:
        service.wait_until_serving()
        for flags, count in (("00", 1000), ("01", 0)):  # not sampled, and sampled
            request = pb.EmbedQueriesRequest(queries=[pb.Query()] * count)
            metadata = [("traceparent", PARENT + flags), ("x-request-id", f"id-{flags}")]
            if count:
                service.stub.EmbedQueries(request, metadata=metadata, timeout=20)
            else:
                with pytest.raises(grpc.RpcError):
                    service.stub.EmbedQueries(request, metadata=metadata, timeout=20)
    (span,) = collector.spans
    assert (span.trace_id, span.parent_id) == (PARENT[3:35], PARENT[36:52])
    assert span.attributes["rpc.grpc.status_code"] == 3  # INVALID_ARGUMENT
    assert span.attributes["two_tower.request_id"] == "id-01"
    assert not span.is_error  # the request was at fault, not the service


def test_a_malformed_trace_context_starts_a_new_trace(filled: FolderStore, collector: Collector) -> None:
    with query_tower_service(filled, otlp_endpoint=collector.endpoint) as service:
        service.wait_until_serving()
        service.stub.EmbedQueries(REQUEST, metadata=[("traceparent", "00-xyz")], timeout=20)
    (span,) = collector.spans
    assert span.parent_id == ""


def test_a_collector_that_hangs_keeps_no_call_and_no_drain(
    filled: FolderStore, collector: Collector, tmp_path: Path
) -> None:
    collector.takes.clear()
    # A process of its own: the export goes on with attempts after random pauses, which other tests are not to notice.
    replica = Replica(
        "query_tower_service",
        filled.root,
        tmp_path / "replica",
        {"otlp-endpoint": collector.endpoint, "drain-delay-s": "0"},
    )
    replica.start()
    try:
        replica.wait_until_serving()
        with grpc.insecure_channel(replica.address) as channel:
            stub = query_tower_service_pb2_grpc.QueryTowerServiceStub(channel)
            for _ in range(600):  # more than one export takes
                stub.EmbedQueries(REQUEST, timeout=20)
            wait_for(lambda: collector.export_count, "an export hangs")
            for _ in range(2100):  # more than wait for the collector
                stub.EmbedQueries(REQUEST, timeout=20)
        assert replica.process is not None
        replica.process.terminate()
        assert replica.process.wait(20) == 0  # drained, while the export still hangs
    finally:
        replica.stop()
    assert not collector.spans


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys, pathlib, ann_service.app, ann_service.config as c;"
        "ann_service.app.assemble(c.AnnConfig(store=pathlib.Path('x')));"
        "sys.exit(any(name.startswith(('opentelemetry', 'grpc_channelz')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
