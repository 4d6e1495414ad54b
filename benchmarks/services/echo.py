"""An echo service on gRPC's own Python server with two threads: its cost is a lower bound for both services.

``python -m benchmarks.services.echo --port-file FILE`` returns each request of the two services unchanged. Other flags
of the services are accepted and ignored.
"""

from __future__ import annotations

import argparse
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from retrieval.bundle.files import replace_text
from two_tower.ann.v1.ann_service_pb2 import SearchItemsRequest
from two_tower.query.v1.query_tower_service_pb2 import EmbedQueriesRequest

_METHODS: dict[str, tuple[str, Any]] = {
    "two_tower.query.v1.QueryTowerService": ("EmbedQueries", EmbedQueriesRequest),
    "two_tower.ann.v1.AnnService": ("SearchItems", SearchItemsRequest),
}


def add_echo(server: grpc.Server, service_name: str) -> None:
    """Adds a service to `server` that returns each request, parsed to a message and serialized, as generated code does.

    Args:
        server: server to add the service to.
        service_name: full name of the service, as in its proto.
    """
    method, message = _METHODS[service_name]
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request, message.FromString, message.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, {method: handler}),))
    server.add_registered_method_handlers(service_name, {method: handler})


def main() -> None:
    """Runs the echo service until SIGTERM."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.echo", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--port-file", type=Path, required=True, help="file to write the service's port to")
    arguments, _ = parser.parse_known_args()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    for service_name in _METHODS:
        add_echo(server, service_name)
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    replace_text(arguments.port_file, f"{port}\n")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(0)


if __name__ == "__main__":
    main()
