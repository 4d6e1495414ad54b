"""The standard health service, `grpc.health.v1`, without its deadlock.

That of the package grpcio-health-checking (1.85) sends to watchers while it holds its lock, and a watcher that leaves
at that moment waits for the same lock in the one thread that could finish the sending: the process then hangs at the
next change of health, which is the next swap or drain. It also says SERVING before anything is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

WATCHES = 16
"""Threads that watches may occupy in the pool that runs them."""

_WATCH_INTERVAL_S = 5.0
"""How often a watch looks whether its caller is still there, should it miss the call that says so."""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """One status for all of the names that it knows; NOT_SERVING at first. Safe for several threads.

    A watch occupies its thread. Nothing is ever sent while the lock is held.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Takes the full names of the services, and ``""`` for the server."""
        self._names = frozenset(names)
        self._changed = threading.Condition()
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._draining = False
        self._closed = False
        self._watching = 0

    def set_serving(self, serving: bool) -> None:
        """Says whether calls can be answered; without effect once draining."""
        with self._changed:
            if not self._draining:
                response = health_pb2.HealthCheckResponse
                self._status = response.SERVING if serving else response.NOT_SERVING
                self._changed.notify_all()

    def drain(self) -> None:
        """Says NOT_SERVING from now on."""
        self.set_serving(False)
        with self._changed:
            self._draining = True

    def close(self) -> None:
        """Ends all watches."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status; NOT_FOUND where the name is unknown."""
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=self._status)

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Yields the status now, and whenever it changes.

        UNIMPLEMENTED where nearly all threads for watches are taken: gRPC's own clients then go on without watching,
        where one that had to wait for a thread would never send a call.
        """
        with self._changed:
            self._watching += 1
            crowded = self._watching > WATCHES - 4
        try:
            if crowded:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "too many watches; ask Check instead")
            yield from self._watch(request, context)
        finally:
            with self._changed:
                self._watching -= 1

    def _watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        context.add_callback(self._wake)
        sent: int | None = None
        while context.is_active():
            with self._changed:
                if self._closed and sent == self._current(request.service):
                    return
                if sent == self._current(request.service):
                    self._changed.wait(_WATCH_INTERVAL_S)
                status = self._current(request.service)
            if status != sent:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)

    def _current(self, name: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        return self._status if name in self._names else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
