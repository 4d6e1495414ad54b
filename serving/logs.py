"""Structured logs on stderr: JSON lines, or text where a person looks on. Never a token, never a feature value."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str, worker: int = 0) -> None:
    """Sets up logging for the whole process.

    Args:
        level: the least severe one that is written, out of `LEVELS`.
        worker: number of this worker process, which each line then carries; 0: it is none.
    """

    def add_worker(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, "worker": worker} if worker else event

    # Tracebacks as text: the structured form would add local variables, and with them feature values.
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        add_worker,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if terminal else [structlog.processors.format_exc_info]),
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # One write a line: worker processes share stderr, and must not cut each other's lines in two.
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
