"""The stall ticker."""

from __future__ import annotations

import re

from retrieval.serving.runtime.metrics import Metrics, StallTicker
from tests.worlds import wait_for


def test_stall_ticker_measures_how_long_the_gil_is_held() -> None:
    metrics = Metrics()
    ticker = StallTicker(metrics, interval_s=0.001)
    ticker.start()

    def longest_s() -> float:
        re.match(r"(a|a)*b", "a" * 24)  # some 0.2 s in C, without letting go of the GIL
        return metrics.registry.get_sample_value("two_tower_longest_stall_seconds") or 0.0

    wait_for(lambda: longest_s() > 0.05, "a stall of more than 50 ms is measured")
    ticker.stop()
