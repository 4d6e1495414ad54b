"""What `make fleet` reads of its replicas and clients."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.system.fleet.readings import Endpoint, Sampler, Seen, spread
from tests.worlds import wait_for


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([100, 100, 100], 0.0),
        ([110, 100, 90], 0.1),
        ([150, 150, 0], 1.0),
        ([300, 0, 0], 2.0),
        ([0, 0, 0], 1.0),  # without answers nothing is even
    ],
)
def test_spread_is_the_largest_distance_from_an_even_share(answers: list[int], expected: float) -> None:
    assert spread(answers) == pytest.approx(expected)


class Metrics(http.server.BaseHTTPRequestHandler):
    answers = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        name = "two_tower_requests_total"
        for code, value in (("OK", Metrics.answers), ("UNAVAILABLE", 1000)):
            self.wfile.write(f'{name}{{code="{code}",method="SearchItems"}} {value:.1f}\n'.encode())

    def log_message(self, *arguments: object) -> None:
        """Prints nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with http.server.HTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield Endpoint("ann_service", f"http://127.0.0.1:{server.server_port}/metrics")
        server.shutdown()
        thread.join(10)


def test_answers_are_counted_on_after_a_replica_has_restarted(endpoint: Endpoint) -> None:
    Metrics.answers = 40
    with Sampler([endpoint]) as sampler:
        wait_for(lambda: sampler.sample_count, "a first sample")
        for answers, total in ((50, 10), (7, 17), (9, 19)):
            Metrics.answers = answers
            wait_for(
                lambda total=total: sampler.answers("ann_service", 0, float("inf")) == [total],
                f"{total} answers since the first sample",
            )


def test_slow_answers_are_found_between_two_times() -> None:
    seen = Seen(latencies=[(1.0, 0.9), (2.0, 0.1), (3.0, 0.3), (2.5, 0.4), (9.0, 5.0)])
    assert seen.slower(0.25, 1.5, 4.0) == [2.5, 3.0]
    assert seen.slowest_s(1.5, 4.0) == 0.4
