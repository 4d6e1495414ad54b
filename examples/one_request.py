"""Follows one request from outside: its answer, its trace, its log lines, and the metrics, joined by its request id.

Starts both services on free ports with the live bundle of a store, and a small OpenTelemetry collector in this process.
Sends one request as an application would, and one that the ANN service refuses. Needs the extra telemetry.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from retrieval.store.folder_store import FolderStore
from testbed.movielens import print_heading
from testbed.services import Pair, Replica, wait_until
from testbed.telemetry.collector import Collector, Span
from two_tower_client import Retriever, TwoTowerError

_SHOWN_METRICS = ("two_tower_requests_total", "two_tower_work_seconds_sum")
_SHOWN_ATTRIBUTES = ("request_id", "size", "model_version", "bundle_version", "queue_seconds", "work_seconds")


def main() -> int:
    """Runs the example with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="examples.one_request", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("store"), help="bundle store (default: %(default)s)")
    parser.add_argument("--request-id", default="order-17", help="request id of the request (default: %(default)s)")
    arguments = parser.parse_args()
    if FolderStore(arguments.store).live() is None:
        parser.error(f"{arguments.store} has no live bundle; name a store that has one, or train one (README.md)")
    with tempfile.TemporaryDirectory(prefix="two-tower-one-request-") as folder, Collector() as collector:
        run(arguments.store, Path(folder), collector, arguments.request_id)
    return 0


def run(store: Path, folder: Path, collector: Collector, request_id: str) -> None:
    """Starts the services, sends the requests, and prints what can be seen of them.

    Args:
        store: folder of the bundle store.
        folder: folder for logs and port files.
        collector: receives the spans.
        request_id: request id of the first request; that of the second one is longer by ``-wrong``.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector.endpoint)))
    tracer = provider.get_tracer("shop")
    pair = Pair(store, folder, flags={"otlp-endpoint": collector.endpoint, "log-share": "1"})
    ports = _free_ports(len(pair.replicas))
    for replica, port in zip(pair.replicas, ports, strict=True):
        replica.flags = {**replica.flags, "metrics-port": str(port)}
    with pair:
        addresses = [replica.address for replica in pair.replicas]
        with Retriever(*addresses, timeout_s=20.0, caller="shop") as retriever:
            print_heading("The request")
            with tracer.start_as_current_span("recommend", kind=SpanKind.CLIENT):
                answer = retriever.retrieve({}, k=3, request_id=request_id)
            print(f"request id {request_id}, answered by bundle {answer.bundle_version}: {', '.join(answer.item_ids)}")
            wait_until(lambda: len(collector.spans) >= 3, "three spans")
            try:
                retriever.retrieve({"no such feature": 1.0}, k=3, request_id=f"{request_id}-wrong")
            except TwoTowerError as error:
                print(f"request id {error.request_id}, refused: {type(error).__name__}: {error}")
        print_heading("Its trace, as the collector has it")
        _print_trace(collector.spans, request_id)
        metrics = [_scrape(port) for port in ports]
    print_heading("Its log lines")
    for replica in pair.replicas:
        _print_lines(replica, request_id)
    print_heading("The metrics that counted it")
    for replica, lines in zip(pair.replicas, metrics, strict=True):
        for line in lines:
            print(f"{replica.service:<20} {line}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _print_trace(spans: Sequence[Span], request_id: str) -> None:
    """Prints the spans of a request as a tree."""
    trace_id = next(span.trace_id for span in spans if span.attributes.get("two_tower.request_id") == request_id)
    ours = sorted((span for span in spans if span.trace_id == trace_id), key=lambda span: span.started_at_ns)
    print(f"trace {trace_id}")

    def show(parent_id: str, depth: int) -> None:
        for span in (span for span in ours if span.parent_id == parent_id):
            print(f"{'  ' * depth}{span.name}  {1000 * span.seconds:.2f} ms  span {span.span_id}  ({span.service})")
            for name in _SHOWN_ATTRIBUTES:
                if (value := span.attributes.get(f"two_tower.{name}")) is not None:
                    print(f"{'  ' * depth}    {name} = {f'{value:.6f}' if isinstance(value, float) else value}")
            show(span.span_id, depth + 1)

    show("", 1)


def _print_lines(replica: Replica, request_id: str) -> None:
    """Prints the log lines of a replica whose request ids begin with `request_id`."""
    for text in replica.log.read_text().splitlines():
        line = json.loads(text) if text.startswith("{") else {}
        if str(line.get("request_id", "")).startswith(request_id):
            print(f"{replica.service}: {text}")


def _scrape(port: int) -> list[str]:
    """Returns the lines of a metrics endpoint that counted calls of the methods of the request."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return [line for line in lines if line.startswith(_SHOWN_METRICS) and "Status" not in line and line[-4:] != " 0.0"]


if __name__ == "__main__":
    sys.exit(main())
