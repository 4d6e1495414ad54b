"""A gRPC server around the open bundles: listens, reports health, drains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.calls import CallInterceptor
from serving.config import ServerConfig
from serving.credentials import read_tls, read_token
from serving.health import SERVICE_NAME, HealthServicer
from serving.live import Live, Snapshot
from serving.metrics import Metrics, StallTicker
from serving.pool import CallPool
from serving.workers import write_port_file

_SPARE_CALLS = 64
"""Calls of health, reflection and refusal that fit beside those that answer."""

_FLUSH_S = 0.2
"""Time for the last answers to leave."""

_log = structlog.get_logger("server")


class Server:
    """One service. NOT_SERVING until a bundle is open, and again while it drains.

    Example: ``server.start()``, which returns the port; later ``server.drain()``. Both are called once.
    """

    def __init__(
        self,
        service_name: str,
        add_servicer: Callable[[grpc.Server], None],
        live: Live[Any],
        metrics: Metrics,
        config: ServerConfig,
        *,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        """Puts the parts together; nothing listens yet.

        Args:
            service_name: full name of the service, for health and reflection.
            add_servicer: registers the servicer.
            live: the open bundles; started and stopped by this server.
            metrics: of this server.
            config: its settings.
            on_drained: called once no call is in flight any more.

        Raises:
            ValueError: token or TLS files cannot be read.
        """
        self._config = config
        self._live = live
        self._on_drained = on_drained
        self._metrics = metrics
        self._stalls = StallTicker(metrics)
        self._watches = False
        self._has_looked = False
        self._service_name = service_name
        self._credentials = read_tls(config)
        self._pool = CallPool(config.thread_count, metrics)
        self._calls = CallInterceptor(self._pool, config.max_in_flight, read_token(config.token_file), metrics)
        self._grpc = grpc.server(
            self._pool,  # pyright: ignore[reportArgumentType]  # any with `submit` will do
            interceptors=[self._calls],
            maximum_concurrent_rpcs=config.max_in_flight + _SPARE_CALLS,
            options=[
                # Two servers on one port would silently split the traffic, unless they are workers of one parent.
                ("grpc.so_reuseport", int(config.worker > 0)),
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                # Clients that ping an idle connection every ten seconds are welcome.
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
    def has_looked(self) -> bool:
        """Whether a bundle is open, or it is known why none is."""
        return self._has_looked

    def start(self) -> int:
        """Listens, starts to watch the store unless that is done, and returns the port.

        Raises:
            ValueError: the address or the metrics port cannot be had.
        """
        port = self._listen()
        self.watch_store()
        self._grpc.start()
        write_port_file(self._config.port_file, port)
        _log.info(
            "listening",
            service=self._service_name,
            host=self._config.host,
            port=port,
            tls=self._credentials is not None,
        )
        return port

    def watch_store(self) -> None:
        """Starts to watch the store, and to open bundles; `start` does so too."""
        if not self._watches:
            self._watches = True
            self._stalls.start()
            self._live.start(self._follow)

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
                raise ValueError(f"metrics_port {config.metrics_port} cannot be had: {error}") from error
        return port

    def drain(self, delay_s: float | None = None) -> None:
        """Says NOT_SERVING, waits, turns new calls away, lets those in flight finish.

        Args:
            delay_s: how long to wait before calls are turned away. Default: as configured.
        """
        self._health.drain()
        delay_s = self._config.drain_delay_s if delay_s is None else delay_s
        _log.info("draining", delay_s=delay_s, timeout_s=self._config.drain_timeout_s)
        threading.Event().wait(delay_s)
        stopped = self._grpc.stop(self._config.drain_timeout_s)
        finished = self._pool.wait_idle(self._config.drain_timeout_s)
        if not finished:
            _log.warning("calls did not finish in time", in_flight=self._pool.in_flight)
        # What still runs is a stream of reflection, which ends only when its caller does: cut it off.
        self._health.close()
        if not stopped.wait(_FLUSH_S):
            self._grpc.stop(0).wait()
        self._live.stop()
        self._stalls.stop()
        self._calls.close()
        self._pool.shutdown(wait=False)
        self._on_drained()
        _log.info("stopped")

    def _follow(self, snapshot: Snapshot[Any]) -> None:
        self._health.set_serving(bool(snapshot.open))
        if snapshot.open or snapshot.problems:
            self._has_looked = True
