"""Spans of calls, sent to an OpenTelemetry collector (OTLP over gRPC). Only this module uses OpenTelemetry.

The package is imported when a tracer is made, not before: a service without one neither needs it nor pays for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping

import structlog

from retrieval.serving.runtime.log_budget import LogBudget
from retrieval.version import version

MAX_QUEUED = 2048
"""Largest number of spans that wait for the collector; further ones are dropped."""

_CLOSE_S = 2.0
_EXPORT_S = 5.0

_log = structlog.get_logger("tracing")


class Tracer:
    """Records spans of calls. A thread of its own sends them, so a collector that hangs delays no call.

    Whether a call is traced was decided by its caller (`traceparent`). The environment variable OTEL_TRACES_SAMPLER
    decides for calls without trace context; all of them are traced by default. Further variables of OpenTelemetry, such
    as OTEL_EXPORTER_OTLP_HEADERS, apply too.
    """

    def __init__(self, endpoint: str, service_name: str, worker: int) -> None:
        """Starts the thread that sends spans.

        Args:
            endpoint: URL of the collector.
            service_name: full name of the gRPC service.
            worker: number of the worker process; 0: not a worker.

        Raises:
            ValueError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ValueError(
                f"otlp_endpoint needs OpenTelemetry ({error}); install the extra: "
                "pip install 'two-tower-retrieval[telemetry]'"
            ) from error
        _bound_logs()
        resource = {
            "service.name": service_name,
            "service.version": version(),
            "service.instance.id": f"{os.uname().nodename}/{worker or os.getpid()}",
        }
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter, max_queue_size=MAX_QUEUED, schedule_delay_millis=1000, max_export_batch_size=MAX_QUEUED // 4
            )
        )
        self._tracer = self._provider.get_tracer("two_tower", version())
        self._propagator = TraceContextTextMapPropagator()
        self._kind, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def record(
        self,
        name: str,
        parent: Mapping[str, str],
        seconds: float,
        attributes: Mapping[str, str | int | float],
        *,
        is_fault: bool,
    ) -> None:
        """Records the span of a call that has just ended, unless the call is not traced. Never waits.

        Args:
            name: name of the span.
            parent: W3C headers `traceparent` and `tracestate` of the call; empty if it has none.
            seconds: time that the call took.
            attributes: attributes of the span.
            is_fault: whether the call failed through a fault of the service.
        """
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(parent),
            kind=self._kind,
            attributes=attributes,
            start_time=end_ns - int(seconds * 1e9),
        )
        if is_fault:
            span.set_status(self._failed)
        span.end(end_ns)

    def close(self) -> None:
        """Sends the spans that wait, within 2 seconds; drops the rest."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracer", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            _log.warning("the collector did not take all spans in time; the rest is dropped", timeout_s=_CLOSE_S)
        # Its threads may go on for a while; nobody reads what they say.
        logging.getLogger("opentelemetry").handlers = [logging.NullHandler()]


class _Lines(logging.Handler):
    """Writes the log lines of OpenTelemetry as lines of this program, within a budget."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._budget = LogBudget(time.monotonic())

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if self._budget.spend(now):
            left_out = self._budget.take_left_out(now, at_once=True)
            _log.warning("opentelemetry", message=record.getMessage(), lines_left_out=left_out)


def _bound_logs() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Lines()]
