"""The outcome of each call of a method: counted, logged and traced."""

from __future__ import annotations

import time

from google.rpc import code_pb2

from retrieval.serving.answering.call import Call
from retrieval.serving.answering.headers import Headers
from retrieval.serving.rpc.call_log import CallLog
from retrieval.serving.rpc.call_metrics import CallMetrics
from retrieval.serving.runtime.metrics import Metrics
from retrieval.serving.runtime.tracing import Tracer

_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Codes with which the span of a server has failed, by the semantic conventions of OpenTelemetry for gRPC."""


class Outcomes:
    """The outcomes of the calls of one method. Used by one event loop."""

    def __init__(self, service: str, method: str, metrics: Metrics, log: CallLog, tracer: Tracer | None) -> None:
        """Takes the full name of the service, the name of the method, and what receives outcomes.

        Args:
            service: full name of the service.
            method: name of the method.
            metrics: metrics of the server.
            log: log of the calls of the server.
            tracer: records spans; None: calls are not traced.
        """
        self._service, self._method = service, method
        self._metrics = CallMetrics(method, metrics)
        self._log, self._tracer = log, tracer

    def done(
        self, headers: Headers, caller: str, call: Call | None, arrived_at: float, error: Exception | None
    ) -> None:
        """Takes note of a call that was answered or refused.

        Args:
            headers: headers of the call.
            caller: name of the caller; empty if the call has no valid token.
            call: the call; None if its message was not received.
            arrived_at: time at which its headers arrived, in seconds of the monotonic clock.
            error: why it has no response; None if it has one.
        """
        code = self._metrics.done(call, arrived_at, error)
        if code != "OK" or self._log.share:
            self._log.write(self._method, code, headers, caller, call, error)
        if self._tracer is not None:
            self._trace(self._tracer, code, headers, call, arrived_at)

    def left(self, headers: Headers, caller: str, call: Call | None, arrived_at: float, *, passed: bool) -> None:
        """Takes note of a call whose caller did not wait for the answer.

        Args:
            headers: headers of the call.
            caller: name of the caller; empty if the call has no valid token.
            call: the call; None if its message was not received.
            arrived_at: time at which its headers arrived, in seconds of the monotonic clock.
            passed: whether the deadline had passed; if not, the call was cancelled or its connection was lost.
        """
        code = self._metrics.left(call, arrived_at, passed=passed)
        self._log.write(self._method, code, headers, caller, call, None)
        if self._tracer is not None:
            self._trace(self._tracer, code, headers, call, arrived_at)

    def _trace(self, tracer: Tracer, code: str, headers: Headers, call: Call | None, arrived_at: float) -> None:
        attributes: dict[str, str | int | float] = {
            "rpc.system": "grpc",
            "rpc.service": self._service,
            "rpc.method": self._method,
            "rpc.grpc.status_code": code_pb2.Code.Value(code),
            "two_tower.request_id": headers.request_id,
        }
        if call is not None:
            attributes["two_tower.request_bytes"] = len(call.body)
            attributes["two_tower.size"] = call.size
            attributes["two_tower.model_version"] = call.model_version
            attributes["two_tower.bundle_version"] = call.bundle_version
            if call.started_at:
                attributes["two_tower.queue_seconds"] = call.started_at - call.received_at
                attributes["two_tower.work_seconds"] = call.work_s
        name = f"{self._service}/{self._method}"
        parent = {key: headers.get(key) for key in ("traceparent", "tracestate")}
        tracer.record(name, parent, time.monotonic() - arrived_at, attributes, is_fault=code in _FAULTS)
