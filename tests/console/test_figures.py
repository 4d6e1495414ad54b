"""Live figures: what is computed from two readings, and readings of a running service."""

from __future__ import annotations

import http.server
import math
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from console.services.figures import Figures, compare, quantile
from console.services.scrape import Sample, ScrapeError, scrape
from console.settings import MetricsPort
from retrieval.store.folder_store import FolderStore
from tests.console.world import free_port, settings_for, visiting, write
from tests.harness import ann_service
from tests.worlds import DIMENSION, wait_for
from two_tower_client import AnnClient, InvalidRequest, Search

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        # 10 values, 4 of them up to 1, 8 up to 2: the 5th is a quarter of the way from 1 to 2.
        (0.5, [(1.0, 4.0), (2.0, 8.0), (INF, 10.0)], 1.25),
        (0.4, [(1.0, 4.0), (2.0, 8.0), (INF, 10.0)], 1.0),
        (0.99, [(1.0, 4.0), (2.0, 8.0), (INF, 10.0)], 2.0),  # above the last bound
        (0.5, [(1.0, 0.0), (2.0, 0.0), (INF, 0.0)], None),
        (0.5, [], None),
    ],
)
def test_quantiles_are_linear_within_a_bucket(
    share: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    assert quantile(share, buckets) == expected


def sample(at_s: float, ok: float, failed: float, fast: float) -> Sample:
    total = ok + failed
    return Sample(
        at_s,
        calls={("SearchItems", "OK"): ok, ("SearchItems", "INVALID_ARGUMENT"): failed},
        buckets={"SearchItems": {0.001: fast, 0.002: total, INF: total}},
        gauges={"two_tower_in_flight": 3.0},
    )


def test_figures_are_those_between_two_readings() -> None:
    # 40 calls in 2 s, 4 of them failed; 20 took up to 1 ms, 20 up to 2 ms.
    (figures,) = compare(sample(10, 100, 0, 60), sample(12, 136, 4, 80))
    assert (figures.method, figures.calls_per_s, figures.errors_per_s) == ("SearchItems", 20.0, 2.0)
    assert figures.codes == {"INVALID_ARGUMENT": 2.0}
    assert figures.median_ms == pytest.approx(1.0)
    assert figures.p99_ms == pytest.approx(1.98)


def test_a_call_that_its_caller_gave_up_is_no_error() -> None:
    before, after = sample(10, 100, 0, 60), sample(12, 136, 4, 80)
    before.calls["SearchItems", "CANCELLED"], after.calls["SearchItems", "CANCELLED"] = 5.0, 11.0
    (figures,) = compare(before, after)
    assert (figures.calls_per_s, figures.errors_per_s) == (23.0, 2.0)
    assert figures.codes == {"INVALID_ARGUMENT": 2.0, "CANCELLED": 3.0}


@pytest.mark.parametrize(("before", "after"), [((10, 100), (12, 50)), ((10, 100), (41, 200)), ((10, 100), (10, 100))])
def test_no_figures_after_a_restart_or_a_long_pause(before: tuple[float, float], after: tuple[float, float]) -> None:
    assert compare(sample(*before, 0, 0), sample(*after, 0, 0)) == ()


def test_many_pages_read_once() -> None:
    readings: list[MetricsPort] = []

    def read(port: MetricsPort) -> Sample:
        readings.append(port)
        return sample(len(readings), 1, 0, 1)

    figures = Figures([MetricsPort("localhost", 1, "a:1")], read, fresh_s=60.0)
    assert figures.look() == figures.look()
    assert figures.in_flight() == {"a:1": 3.0}
    assert len(readings) == 1
    figures.close()


def test_reads_a_running_service(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store)
    port = free_port()
    with ann_service(store, metrics_port=port) as service:
        service.wait_for_bundle(version)
        address = f"127.0.0.1:{service.port}"
        ports = (MetricsPort("127.0.0.1", port, address), MetricsPort("127.0.0.1", free_port()))
        with visiting(settings_for(store, None, metrics=ports)) as visitor, AnnClient(address, timeout_s=10) as client:
            first, absent = visitor.get("/api/figures").json()["processes"]
            assert (first["replica"], first["error"], first["methods"]) == (address, "", [])
            assert "cannot be read" in absent["error"]

            def methods() -> dict[str, dict[str, float]]:
                client.search([Search(embedding=[1.0] * DIMENSION, k=3)], model_version=version)
                with pytest.raises(InvalidRequest):
                    client.search([Search(embedding=[1.0], k=3)], model_version=version)
                found = visitor.get("/api/figures").json()["processes"][0]["methods"]
                return {each["method"]: each for each in found if each["calls_per_s"] > 0}

            found = wait_for(methods, "the next reading")["SearchItems"]
            assert found["errors_per_s"] == pytest.approx(found["calls_per_s"] / 2, rel=0.5)
            assert list(found["codes"]) == ["INVALID_ARGUMENT"]
            assert 0 < found["median_ms"] <= found["p99_ms"]


@contextmanager
def trickling(begin: bytes) -> Iterator[int]:
    """Listens, and sends a byte each tenth of a second after the begin of an answer; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # until the reader has had enough
                connection.sendall(begin)
                while not stopped.wait(0.1):
                    connection.sendall(b"x")

        stopped = threading.Event()
        thread = threading.Thread(target=send)
        thread.start()
        yield listener.getsockname()[1]
        stopped.set()
        thread.join()


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nx-header: ", b"HTTP/1.1 200 OK\r\n\r\n# "])
def test_an_endpoint_that_trickles_is_given_up(begin: bytes) -> None:
    with trickling(begin) as port, ThreadPoolExecutor() as threads:
        reading = threads.submit(scrape, MetricsPort("127.0.0.1", port))
        assert isinstance(reading.exception(timeout=30), ScrapeError)


def test_the_fleet_does_not_wait_for_figures() -> None:
    released = threading.Event()

    def read(port: MetricsPort) -> Sample:
        assert released.wait(30)
        return sample(1, 1, 0, 1)

    figures = Figures([MetricsPort("localhost", 1, "a:1")], read)
    assert figures.in_flight() == figures.in_flight() == {}
    released.set()
    assert wait_for(figures.in_flight, "the reading has ended") == {"a:1": 3.0}
    figures.close()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """Runs an HTTP server that always gives the same answer; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with suppress(OSError):  # the reader has seen enough
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    body = b"two_tower_in_flight NaN\ntwo_tower_queued +Inf\ntwo_tower_open_bundles 1\n"
    body += b'two_tower_requests_total{method="SearchItems",code="OK"} NaN\n'
    settings = settings_for(FolderStore(tmp_path / "store"), None)
    with answering(200, body) as port:
        endpoint = MetricsPort("127.0.0.1", port, settings.pairs[0].ann)
        with visiting(replace(settings, metrics=(endpoint,))) as visitor:

            def read() -> dict[str, Any] | None:
                (process,) = visitor.get("/api/figures").json()["processes"]
                return process if process["methods"] else None

            process = wait_for(read, "the next reading")
            assert (process["in_flight"], process["queued"], process["open_bundles"]) == (None, None, 1.0)
            assert process["methods"][0]["calls_per_s"] is None
            assert visitor.get("/api/fleet").json()["pairs"][0]["replicas"][1]["in_flight"] is None


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"", "HTTP status 404"),
        (200, b"<html>", "not with Prometheus metrics"),
        (200, b"up 1\n", "not with the metrics of a service of this system"),
        (200, b"# " + b"x" * (5 << 20), "larger than 4 MiB"),
    ],
)
def test_says_what_is_wrong_with_an_endpoint(status: int, body: bytes, message: str) -> None:
    with answering(status, body) as port, pytest.raises(ScrapeError, match=message):
        scrape(MetricsPort("127.0.0.1", port))
