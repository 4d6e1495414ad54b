"""The standard health service, `grpc.health.v1`.

The servicer of the package grpcio-health-checking (1.85) can deadlock. It sends to watchers while it holds its lock; a
watcher that disconnects at that moment waits for the same lock in the only thread that could finish sending. The
process then hangs at the next change of health, which is the next swap or drain. That servicer also says SERVING before
a bundle is loaded. This one never sends while it holds its lock, and starts as NOT_SERVING.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

WATCHES = 16
"""Number of threads in the pool that runs watches."""

_WATCH_INTERVAL_S = 5.0
"""Interval at which a watch checks that its caller is still connected, in case it misses the callback."""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Reports one status for all service names; NOT_SERVING at first. Safe for several threads.

    Each watch occupies a thread.
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
        """Sets the status to SERVING or NOT_SERVING; has no effect after `drain`."""
        with self._changed:
            if not self._draining:
                response = health_pb2.HealthCheckResponse
                self._status = response.SERVING if serving else response.NOT_SERVING
                self._changed.notify_all()

    def drain(self) -> None:
        """Sets the status to NOT_SERVING for good."""
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
        """Returns the status; fails with NOT_FOUND if the service name is unknown."""
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=self._status)

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Yields the status at once, and after each change.

        Fails with UNIMPLEMENTED if nearly all threads for watches are occupied: gRPC's own clients then send calls
        without watching, while a client that waited for a thread would never send a call.
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
