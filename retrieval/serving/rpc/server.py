"""The gRPC server of a service: it listens, reports health, and drains.

```
thread "receive"    an event loop: receives calls, answers health, reflection, status and channelz
threads "answer_N"  do the work of calls (`retrieval.serving.answering.runners`)
other threads       watch the store, load bundles, serve metrics
```
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from retrieval.serving.answering.call import Method
from retrieval.serving.answering.errors import COUNTED_CODES, REFUSAL_REASONS, Stopping
from retrieval.serving.answering.runners import Runners
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.bundles.verification import available_bytes
from retrieval.serving.rpc import channelz
from retrieval.serving.rpc.call_log import CallLog
from retrieval.serving.rpc.calls import CallHandlers
from retrieval.serving.rpc.health import SERVICE_NAME, Health, Reflection
from retrieval.serving.rpc.ports import bind, side_server
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.credentials import Tokens, read_tls
from retrieval.serving.runtime.memory import give_back
from retrieval.serving.runtime.metrics import Metrics, StallTicker
from retrieval.serving.runtime.tracing import Tracer

T = TypeVar("T")

_LOOK_S = 0.01
_FLUSH_S = 0.2
"""Time in which gRPC can send the last responses, in seconds."""
_TICK_S = 0.005
"""Interval at which calls that wait too long are ended, in seconds."""
_AFTER_FAILURE_S = 1.0
_HOUSEKEEPING_S = 1.0
"""Interval at which tokens are looked at and failed calls are summarised, in seconds."""

_log = structlog.get_logger("server")


class Server:
    """The server of one service. Its health is NOT_SERVING until a bundle is open, and again while it drains.

    Call `start` once, which returns the port, and `drain` once at the end.
    """

    def __init__(
        self,
        service_name: str,
        methods: Sequence[Method],
        open_bundles: OpenBundles[Any],
        metrics: Metrics,
        config: ServerConfig,
        *,
        on_drained: Callable[[], None] = lambda: None,
        on_stopped: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Builds the server; it does not listen yet.

        Args:
            service_name: full name of the service, for health and reflection.
            methods: methods of the service.
            open_bundles: open bundles of the service; this server starts and stops them.
            metrics: metrics of this server.
            config: settings.
            on_drained: called at the end of the drain, when no call is in flight.
            on_stopped: runs in the event loop before that, for instance to close connections.

        Raises:
            ValueError: token or TLS files cannot be used, or a setting needs a package that is not installed.
        """
        self._config = config
        self._open_bundles = open_bundles
        self._on_drained, self._on_stopped = on_drained, on_stopped
        self._metrics = metrics
        self._stalls = StallTicker(metrics)
        self._watches = False
        self._is_settled = False
        self._service_name = service_name
        self._tokens = Tokens(config.token_file, metrics)
        self._credentials = read_tls(config, metrics)
        self._runners = Runners(config.threads, config.max_in_flight, config.max_bytes_in_flight)
        metrics.in_flight.set_function(lambda: self._runners.in_flight)
        metrics.waiting.set_function(lambda: self._runners.waiting)
        metrics.limit.set_function(lambda: self._runners.limit)
        metrics.memory_available.set_function(available_bytes)
        for method in methods:
            metrics.start_at_zero(method.name, COUNTED_CODES, REFUSAL_REASONS)
        self._health = Health(("", service_name))
        self._tracer = Tracer(config.otlp_endpoint, service_name, config.worker) if config.otlp_endpoint else None
        self._log = CallLog(1.0 if config.log_level == "debug" else config.log_share)
        common = (self._runners, self._tokens, metrics, self._log, config.receive_timeout_s)
        self._calls = CallHandlers(service_name, methods, *common, self._tracer)
        metrics.receiving.set_function(lambda: self._calls.receiving)
        self._admin = CallHandlers(channelz.SERVICE_NAME, channelz.methods(), *common) if config.admin_port else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receive", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._grpc: grpc.aio.Server
        self._side_grpc: list[grpc.aio.Server] = []

    @property
    def is_settled(self) -> bool:
        """Whether a bundle is open, or the reason is known why none is."""
        return self._is_settled

    def start(self) -> int:
        """Listens, starts to watch the store unless `watch_store` was called, and returns the port.

        Raises:
            ValueError: the server cannot listen on the address, the metrics port, the health port or the admin port.
        """
        self._start_loop()
        port = self._run(self._listen())
        self.watch_store()
        self._run(self._serve())
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
            self._start_loop()
            self._stalls.start()
            self._open_bundles.start(self._on_change)

    def reload(self) -> None:
        """Reads the token file now; certificates are read with the next connection anyway."""
        self._tokens.reload()

    def drain(self, delay_s: float | None = None) -> None:
        """Sets health to NOT_SERVING, waits, then refuses new calls and lets those in flight finish.

        Calls that do not finish within `drain_timeout_s` get UNAVAILABLE. Nothing that hangs keeps this from returning.

        Args:
            delay_s: time before new calls are refused, in seconds. Default: `drain_delay_s` of the settings.
        """
        self._loop.call_soon_threadsafe(self._health.drain)
        delay_s = self._config.drain_delay_s if delay_s is None else delay_s
        _log.info("draining", delay_s=delay_s, timeout_s=self._config.drain_timeout_s)
        threading.Event().wait(delay_s)
        self._run(self._stop())
        self._open_bundles.stop()
        self._stalls.stop()
        self._on_drained()
        if self._tracer is not None:
            self._tracer.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_FLUSH_S)
        _log.info("stopped")

    def _start_loop(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the event loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> int:
        config = self._config
        age_ms = int(config.max_connection_age_s * 1000)
        # gRPC binds a server to the event loop that is running when the server is made.
        self._grpc = grpc.aio.server(
            options=[
                # Only workers of one parent may share a port: other servers on it would take part of the traffic.
                ("grpc.so_reuseport", int(config.worker > 0)),
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", config.max_streams),
                # Allow clients to ping an idle connection every ten seconds.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # End connections to peers that are frozen or gone.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                *((("grpc.max_connection_age_ms", age_ms),) if age_ms else ()),
            ],
        )
        self._grpc.add_generic_rpc_handlers((self._health, self._calls))
        if config.reflection:
            reflected = (self._service_name, SERVICE_NAME)
            self._grpc.add_generic_rpc_handlers((Reflection(reflected, self._tokens),))
        port = bind(self._grpc, config.host, config.port, self._credentials, "--port")
        if config.health_port:
            # In plain text, because the probes of Kubernetes speak no TLS.
            side = side_server(self._health, config.health_host, config.health_port, None, "--health-port")
            self._side_grpc.append(side)
        if self._admin is not None:
            tls = read_tls(config, self._metrics)
            side = side_server(self._admin, config.admin_host, config.admin_port, tls, "--admin-port")
            self._side_grpc.append(side)
        if config.metrics_port:
            try:
                self._metrics.serve(config.metrics_host, config.metrics_port)
            except OSError as error:
                raise ValueError(
                    f"cannot listen on metrics_host {config.metrics_host}, metrics_port {config.metrics_port}: "
                    f"{error}; choose another --metrics-port or --metrics-host"
                ) from error
        return port

    async def _serve(self) -> None:
        self._runners.start()
        await self._grpc.start()
        for side in self._side_grpc:
            await side.start()
        handlers = [each for each in (self._calls, self._admin) if each is not None]
        self._tasks = [
            asyncio.create_task(_repeat(_TICK_S, work))
            for work in (self._runners.expire, *(each.end_silent for each in handlers))
        ]
        self._tasks.append(asyncio.create_task(_repeat(_HOUSEKEEPING_S, self._keep_house)))

    async def _keep_house(self) -> None:
        """Reads tokens and summarises the log."""
        self._log.summarise()
        await asyncio.to_thread(self._tokens.reload)

    async def _stop(self) -> None:
        # From here on, new calls are refused; those in flight have the grace period of gRPC, which is a little longer.
        stopped = asyncio.create_task(self._grpc.stop(self._config.drain_timeout_s + _FLUSH_S))
        await asyncio.sleep(0)
        self._calls.end_streams()
        end = self._loop.time() + self._config.drain_timeout_s
        while (self._runners.in_flight or self._calls.receiving) and self._loop.time() < end:
            await asyncio.sleep(_LOOK_S)
        if self._runners.in_flight:
            _log.warning("calls did not finish in time", in_flight=self._runners.in_flight)
        self._runners.stop(Stopping)
        self._calls.end_receiving()
        self._health.close()
        # What still runs is a stream of reflection or a response that nobody reads: it is cancelled.
        _, late = await asyncio.wait([stopped], timeout=_FLUSH_S)
        if late:
            await self._grpc.stop(0)
        for side in self._side_grpc:
            await side.stop(0)
        self._log.summarise(at_once=True)
        for task in self._tasks:
            task.cancel()
        if self._on_stopped is not None:
            await self._on_stopped()

    def _on_change(self, snapshot: Snapshot[Any]) -> None:
        self._loop.call_soon_threadsafe(self._health.set_serving, bool(snapshot.open))
        give_back()
        if snapshot.open or snapshot.problems:
            self._is_settled = True


async def _repeat(interval_s: float, work: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
    """Does work at an interval, until this coroutine is cancelled. A failure is logged; the next try is later."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            done = work()
            if done is not None:
                await done
        except Exception:
            _log.exception("the server could not do regular work, and tries again")
            await asyncio.sleep(_AFTER_FAILURE_S)
