"""The gRPC server of a service: it listens, reports health, and drains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.calls import CallInterceptor
from retrieval.serving.rpc.health import SERVICE_NAME, HealthServicer
from retrieval.serving.rpc.thread_pool import CallPool
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.credentials import read_tls, read_token
from retrieval.serving.runtime.metrics import Metrics, StallTicker

_SPARE_CALLS = 64
"""Number of calls of health, reflection and refusals beyond `max_in_flight`."""

_FLUSH_S = 0.2
"""Time in which gRPC can send the last responses, in seconds."""

_log = structlog.get_logger("server")


class Server:
    """The server of one service. Its health is NOT_SERVING until a bundle is open, and again while it drains.

    Call `start` once, which returns the port, and `drain` once at the end.
    """

    def __init__(
        self,
        service_name: str,
        add_servicer: Callable[[grpc.Server], None],
        open_bundles: OpenBundles[Any],
        metrics: Metrics,
        config: ServerConfig,
        *,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        """Builds the server; it does not listen yet.

        Args:
            service_name: full name of the service, for health and reflection.
            add_servicer: registers the servicer at the gRPC server.
            open_bundles: open bundles of the servicer; this server starts and stops them.
            metrics: metrics of this server.
            config: settings.
            on_drained: called at the end of the drain, when no call is in flight.

        Raises:
            ValueError: token or TLS files cannot be read.
        """
        self._config = config
        self._open_bundles = open_bundles
        self._on_drained = on_drained
        self._metrics = metrics
        self._stalls = StallTicker(metrics)
        self._watches = False
        self._is_settled = False
        self._service_name = service_name
        self._credentials = read_tls(config)
        self._pool = CallPool(config.thread_count, metrics)
        self._calls = CallInterceptor(self._pool, config.max_in_flight, read_token(config.token_file), metrics)
        self._grpc = grpc.server(
            self._pool,  # pyright: ignore[reportArgumentType]  # gRPC only needs `submit`
            interceptors=[self._calls],
            maximum_concurrent_rpcs=config.max_in_flight + _SPARE_CALLS,
            options=[
                # Only workers of one parent may share a port: other servers on it would take part of the traffic.
                ("grpc.so_reuseport", int(config.worker > 0)),
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                # Allow clients to ping an idle connection every ten seconds.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
        )
        self._health = HealthServicer(("", service_name))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        add_servicer(self._grpc)
        if config.reflection:
            reflection.enable_server_reflection((service_name, SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)

    @property
    def is_settled(self) -> bool:
        """Whether a bundle is open, or the reason is known why none is."""
        return self._is_settled

    def start(self) -> int:
        """Listens, starts to watch the store unless `watch_store` was called, and returns the port.

        Raises:
            ValueError: the server cannot listen on the address or on the metrics port.
        """
        port = self._listen()
        self.watch_store()
        self._grpc.start()
        _log.info(
            "listening",
            service=self._service_name,
            host=self._config.host,
            port=port,
            tls=self._credentials is not None,
        )
        return port

    def watch_store(self) -> None:
        """Starts to watch the store and to open its bundles. `start` calls this too."""
        if not self._watches:
            self._watches = True
            self._stalls.start()
            self._open_bundles.start(self._on_change)

    def _listen(self) -> int:
        config = self._config
        host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
        address = f"{host}:{config.port}"
        try:
            if self._credentials is None:
                port = self._grpc.add_insecure_port(address)
            else:
                port = self._grpc.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise ValueError(
                f"cannot listen on {address}: {error}; if another process listens there, choose another --port"
            ) from error
        if config.metrics_port:
            try:
                self._metrics.serve(config.metrics_port)
            except OSError as error:
                raise ValueError(
                    f"cannot listen on metrics_port {config.metrics_port}: {error}; choose another --metrics-port"
                ) from error
        return port

    def drain(self, delay_s: float | None = None) -> None:
        """Sets health to NOT_SERVING, waits, then refuses new calls and lets those in flight finish.

        Args:
            delay_s: time before new calls are refused, in seconds. Default: `drain_delay_s` of the settings.
        """
        self._health.drain()
        delay_s = self._config.drain_delay_s if delay_s is None else delay_s
        _log.info("draining", delay_s=delay_s, timeout_s=self._config.drain_timeout_s)
        threading.Event().wait(delay_s)
        stopped = self._grpc.stop(self._config.drain_timeout_s)
        finished = self._pool.wait_idle(self._config.drain_timeout_s)
        if not finished:
            _log.warning("calls did not finish in time", in_flight=self._pool.in_flight)
        self._health.close()
        # A call that still runs is a stream of reflection, which ends only with its caller: it is cancelled.
        if not stopped.wait(_FLUSH_S):
            self._grpc.stop(0).wait()
        self._open_bundles.stop()
        self._stalls.stop()
        self._calls.close()
        self._pool.shutdown(wait=False)
        self._on_drained()
        _log.info("stopped")

    def _on_change(self, snapshot: Snapshot[Any]) -> None:
        self._health.set_serving(bool(snapshot.open))
        if snapshot.open or snapshot.problems:
            self._is_settled = True
