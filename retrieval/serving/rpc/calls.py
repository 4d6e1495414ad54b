"""The interceptor of every call: token, limit on calls in flight, deadline, errors, metrics.

```
polling thread:  check the token ─► check the limit ─► submit to the call pool
call pool:       check the deadline ─► servicer ─► exception to status ─► metrics, log
```

Health and reflection run in their own threads, so that their open streams never occupy a thread of the call pool.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog

from retrieval.serving.rpc.errors import DeadlinePassed, Overloaded, ServiceError, Unauthenticated, code_name, status_of
from retrieval.serving.rpc.health import WATCHES
from retrieval.serving.rpc.thread_pool import CallPool
from retrieval.serving.runtime.metrics import Metrics

_HEALTH = "/grpc.health.v1.Health/"
_OURS = "/two_tower."

_log = structlog.get_logger("calls")


class CallInterceptor(grpc.ServerInterceptor):
    """Checks every call before its servicer runs, and turns exceptions into gRPC statuses."""

    def __init__(self, pool: CallPool, max_in_flight: int, token: str | None, metrics: Metrics) -> None:
        """Starts the threads for health, reflection and refusals.

        Args:
            pool: threads that run the servicer's methods.
            max_in_flight: largest number of calls in the pool; further calls are refused.
            token: bearer token that calls have to carry; None: no token is needed.
            metrics: receives the number and latency of the calls.
        """
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._metrics = metrics
        self._guarded: dict[str, tuple[Any, Any]] = {}
        self._health_pool = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._watch_pool = ThreadPoolExecutor(WATCHES, thread_name_prefix="watch")
        self._reflection_pool = ThreadPoolExecutor(2, thread_name_prefix="reflection")
        self._refusal_pool = ThreadPoolExecutor(1, thread_name_prefix="refuse")

    def close(self) -> None:
        """Ends the threads of health, reflection and refusals."""
        for pool in (self._health_pool, self._watch_pool, self._reflection_pool, self._refusal_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Returns the handler of a call. Runs in the polling thread, so it must neither block nor raise."""
        method: str = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if method.startswith(_HEALTH):
            return _in_pool(handler, self._health_pool if handler.unary_unary else self._watch_pool)
        if not self._is_authentic(handler_call_details.invocation_metadata):
            return self._refuse(handler, method, Unauthenticated())
        if not method.startswith(_OURS):
            return _in_pool(handler, self._reflection_pool)
        if self._pool.in_flight >= self._max_in_flight:
            return self._refuse(handler, method, Overloaded(self._max_in_flight))
        cached = self._guarded.get(method)
        if cached is None or cached[0] is not handler:
            cached = self._guarded[method] = (handler, self._guard(handler, method))
        return cached[1]

    def _is_authentic(self, metadata: Any) -> bool:
        if self._expected is None:
            return True
        sent = next((value for key, value in metadata or () if key == "authorization"), "")
        return hmac.compare_digest(sent if isinstance(sent, bytes) else sent.encode(), self._expected)

    def _guard(self, handler: Any, method: str) -> Any:
        short, answer, metrics = method.rsplit("/", 1)[1], handler.unary_unary, self._metrics
        latency, answered = metrics.latency.labels(short), metrics.requests.labels(short, code_name(None))

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            failure: Exception | None = None
            response = None
            try:
                if not context.is_active() or context.time_remaining() <= 0:
                    raise DeadlinePassed()
                response = answer(request, context)
            except ServiceError as error:
                failure = error
                _log.debug("call failed", method=short, code=code_name(error), reason=error.reason)
            except Exception as error:
                failure = error
                _log.exception("call failed unexpectedly", method=short)
            latency.observe(time.perf_counter() - started)
            if failure is None:
                answered.inc()
            else:
                metrics.requests.labels(short, code_name(failure)).inc()
                context.abort_with_status(status_of(failure))
            return response

        return _unary(handler, guarded)

    def _refuse(self, handler: Any, method: str, error: ServiceError) -> Any:
        self._metrics.requests.labels(method.rsplit("/", 1)[1], code_name(error)).inc()

        def refuse(request: Any, context: grpc.ServicerContext) -> Any:
            context.abort_with_status(status_of(error))

        if handler.unary_unary is None:
            return _in_pool(grpc.stream_stream_rpc_method_handler(refuse), self._refusal_pool)
        return _in_pool(_unary(handler, refuse), self._refusal_pool)


def _unary(handler: Any, behaviour: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _in_pool(handler: Any, pool: ThreadPoolExecutor) -> Any:
    # gRPC reads a handler's pool from an attribute of its function. These functions belong to other code: wrap them.
    def wrap(behaviour: Any) -> Any:
        def wrapped(request: Any, context: grpc.ServicerContext) -> Any:
            return behaviour(request, context)

        wrapped.experimental_thread_pool = pool  # pyright: ignore[reportFunctionMemberAccess]
        return wrapped

    serialization = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(wrap(handler.unary_unary), **serialization)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(wrap(handler.unary_stream), **serialization)
    return grpc.stream_stream_rpc_method_handler(wrap(handler.stream_stream), **serialization)
