"""Counts the outcome of each call, as its caller saw it."""

from __future__ import annotations

import time

from retrieval.serving.answering.call import Call
from retrieval.serving.answering.error_status import code_name
from retrieval.serving.answering.errors import Overloaded, ServiceError
from retrieval.serving.answering.wire import Undecodable
from retrieval.serving.runtime.metrics import Metrics

_CANCELLED, _PASSED = "CANCELLED", "DEADLINE_EXCEEDED"


class CallMetrics:
    """The metrics of one method."""

    def __init__(self, method: str, metrics: Metrics) -> None:
        """Takes the name of the method, and the metrics of the server."""
        self._method = method
        self._metrics = metrics
        self._request_seconds = metrics.request_seconds.labels(method)
        self._queue_seconds = metrics.queue_seconds.labels(method)
        self._work_seconds = metrics.work_seconds.labels(method)
        self._request_bytes = metrics.request_bytes.labels(method)
        self._response_bytes = metrics.response_bytes.labels(method)
        self._undecodable = metrics.undecodable.labels(method)
        self._answered = metrics.requests.labels(method, code_name(None))

    def done(self, call: Call | None, arrived_at: float, error: Exception | None) -> str:
        """Counts a call that was answered or refused, and returns the name of the code that its caller saw.

        Args:
            call: the call; None if its message was not received.
            arrived_at: time at which its headers arrived, in seconds of the monotonic clock.
            error: why it has no response; None if it has one.
        """
        now = time.monotonic()
        self._request_seconds.observe(now - arrived_at)
        if call is not None:
            self._observe(call)
        if error is None and call is not None and now < call.deadline:
            self._answered.inc()
            self._response_bytes.inc(len(call.response))
            return "OK"
        code = _PASSED if error is None else code_name(error)
        self._metrics.requests.labels(self._method, code).inc()
        if isinstance(error, Undecodable):
            self._undecodable.inc()
        elif isinstance(error, ServiceError) and (call is None or isinstance(error, Overloaded)):
            self._metrics.refused.labels(self._method, error.reason.lower()).inc()
        return code

    def left(self, call: Call | None, arrived_at: float, *, passed: bool) -> str:
        """Counts a call whose caller did not wait for the answer, and returns the name of its code.

        Args:
            call: the call; None if its message was not received.
            arrived_at: time at which its headers arrived, in seconds of the monotonic clock.
            passed: whether the deadline had passed; if not, the call was cancelled or its connection was lost.
        """
        self._request_seconds.observe(time.monotonic() - arrived_at)
        if call is not None:
            self._observe(call)
        code = _PASSED if passed else _CANCELLED
        self._metrics.requests.labels(self._method, code).inc()
        return code

    def _observe(self, call: Call) -> None:
        self._request_bytes.inc(len(call.body) + call.earlier_bytes)
        if call.started_at:
            self._queue_seconds.observe(call.started_at - call.received_at)
            self._work_seconds.observe(call.work_s)
