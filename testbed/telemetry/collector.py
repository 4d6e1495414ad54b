"""An OpenTelemetry collector in this process, which keeps the spans that it receives. Needs the extra telemetry."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """A span that was received.

    Attributes:
        service: Name of the service that recorded it.
        name: Name of the span.
        kind: Kind of the span in OTLP; 2 for a span of a server.
        trace_id: Id of its trace, 32 hexadecimal digits.
        span_id: Its id, 16 hexadecimal digits.
        parent_id: Id of the parent span; empty if there is none.
        started_at_ns: Time at which it began, in nanoseconds since 1970.
        seconds: Duration in seconds.
        attributes: Attributes by name.
        is_error: Whether its status is an error.
    """

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    started_at_ns: int
    seconds: float
    attributes: dict[str, Any]
    is_error: bool


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Context in which a collector receives OTLP over gRPC on a free port of loopback.

    Attributes:
        endpoint: URL of the collector.
        spans: Spans received, in the order of arrival.
        takes: Event that lets exports end; a collector that hangs is one in which it is clear. Set at first.
        export_count: Number of exports that began.
    """

    def __init__(self) -> None:
        """Prepares the collector."""
        self.spans: list[Span] = []
        self.takes = threading.Event()
        self.takes.set()
        self.export_count = 0
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Collector:
        """Starts to receive."""
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops to receive."""
        self.takes.set()
        self._server.stop(0).wait()

    def Export(self, request: Any, context: Any) -> Any:
        """Keeps the spans of an export."""
        self.export_count += 1
        self.takes.wait()
        for resource_spans in request.resource_spans:
            service = _attributes(resource_spans.resource.attributes)["service.name"]
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_read(service, span) for span in scope_spans.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _read(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        _attributes(span.attributes),
        span.status.code == 2,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
