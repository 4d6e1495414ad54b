"""Reads the Prometheus endpoint of a process of a service."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from console.settings import MetricsPort

_TIMEOUT_S = 2.0
_MAX_BYTES = 4 << 20

_NOT_COUNTED = frozenset({"GetServingStatus"})
"""Methods that are left out: the console itself asks for the status each second."""


class ScrapeError(Exception):
    """An endpoint cannot be read; the message says why."""


@dataclass
class Sample:
    """What a process counted up to a moment.

    Attributes:
        at_s: Time of the reading, in seconds of the monotonic clock.
        calls: Number of calls by method and code.
        buckets: Number of calls by method and upper bound of their duration in seconds, cumulative, ascending.
        gauges: Values of metrics without labels, by name.
        live_bundle: Bundle that answers by default; empty if there is none.
    """

    at_s: float
    calls: dict[tuple[str, str], float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=lambda: defaultdict(dict))
    gauges: dict[str, float] = field(default_factory=dict)
    live_bundle: str = ""


def scrape(port: MetricsPort) -> Sample:
    """Returns what an endpoint says now, within two seconds.

    Raises:
        ScrapeError: nothing answers, or not with metrics of a service.
    """
    text = _read(port)
    sample = Sample(time.monotonic())
    try:
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                method = labels.get("method", "")
                if method in _NOT_COUNTED:
                    continue
                if name == "two_tower_requests_total":
                    sample.calls[method, labels["code"]] = value
                elif name == "two_tower_request_seconds_bucket":
                    sample.buckets[method][float(labels["le"])] = value
                elif name == "two_tower_live_bundle_info":
                    sample.live_bundle = labels["bundle_version"]
                elif not labels:
                    sample.gauges[name] = value
    except (ValueError, KeyError, IndexError) as error:
        raise ScrapeError(f"{port.address} answers, but not with Prometheus metrics: {error}") from error
    if "two_tower_in_flight" not in sample.gauges:
        raise ScrapeError(f"{port.address} answers, but not with the metrics of a service of this system")
    return sample


def _read(port: MetricsPort) -> str:
    end_s = time.monotonic() + _TIMEOUT_S
    connection = http.client.HTTPConnection(port.host, port.port, timeout=_TIMEOUT_S)
    timer = None
    try:
        connection.connect()
        # The timeout of a connection is that of each read: one that trickles would go on for ever.
        timer = threading.Timer(end_s - time.monotonic(), _end, (connection.sock,))
        timer.start()
        connection.request("GET", "/metrics", headers={"Accept": "text/plain", "User-Agent": "two-tower-console"})
        response = connection.getresponse()
        if response.status != 200:
            raise ScrapeError(f"{port.address}/metrics answers with HTTP status {response.status}, expected 200")
        body = bytearray()
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ScrapeError(f"{port.address}/metrics is larger than {_MAX_BYTES >> 20} MiB")
        if time.monotonic() >= end_s:
            raise TimeoutError("it sends too slowly")
    except (OSError, http.client.HTTPException) as error:
        raise ScrapeError(
            f"{port.address} cannot be read: {error or type(error).__name__}; is it the --metrics-port of a service?"
        ) from error
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()
    return body.decode("utf-8", "replace")


def _end(connection: socket.socket) -> None:
    """Ends a connection at its time limit: whoever reads it sees its end."""
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
