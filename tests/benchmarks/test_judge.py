"""Checks of ghz reports against the thresholds of a load test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.loadtest import page
from benchmarks.loadtest.ghz import CONFIGS, read_config
from benchmarks.loadtest.judge import Threshold, judge, percentile, read_calls, read_thresholds, steps, to_table

THRESHOLDS = CONFIGS.parent / "thresholds.toml"
START = "2026-11-24T16:11:%09.6fZ"


def report(latencies_ms: list[float], *, status: str = "OK", every_s: float = 0.01) -> dict[str, Any]:
    """Returns a report like ghz's, of calls that begin every `every_s` seconds; its timestamps are their ends."""
    details = [
        {"timestamp": START % (number * every_s + ms / 1e3), "latency": int(ms * 1e6), "status": status, "error": ""}
        for number, ms in enumerate(latencies_ms)
    ]
    return {"rps": 1 / every_s, "count": len(details), "details": details}


def misses(given: dict[str, Any], limit: float | None = None, asked_for: float | None = None, **threshold: Any) -> Any:
    return judge("x", given, Threshold(**threshold), limit, asked_for).misses


def test_percentiles_are_those_of_the_calls_and_not_of_ghz() -> None:
    # 1 to 100 ms: the nearest ranks of a half and of 99 % are the 50th and the 99th.
    calls = read_calls(report([float(ms) for ms in range(1, 101)]))
    assert (percentile(calls, 0.5), percentile(calls, 0.99), percentile(calls, 1.0)) == (50.0, 99.0, 100.0)


def test_calls_begin_when_they_ended_less_their_latency() -> None:
    calls = read_calls(report([5.0, 500.0, 5.0], every_s=1.0))
    assert [round(call.began_s, 6) for call in calls] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "timestamp", ["2026-11-24T16:11:32.834619584Z", "2026-11-24T16:11:32Z", "2026-11-24T16:11:32.8+01:00"]
)
def test_reads_the_timestamps_that_go_writes(timestamp: str) -> None:
    given = report([1.0])
    given["details"][0]["timestamp"] = timestamp
    assert len(read_calls(given)) == 1


def test_any_call_that_failed_is_a_miss() -> None:
    assert misses(report([1.0])) == ()
    assert misses(report([1.0, 1.0], status="Unavailable")) == ("2 of 2 calls failed: Unavailable",)
    assert misses(report([])) == ("no call was made",)


def test_latencies_and_their_ratio_are_judged() -> None:
    given = report([2.0] * 98 + [30.0] * 2)
    assert misses(given, p50_ms=2, p99_ms=30, p99_of_p50=15) == ()
    assert misses(given, p50_ms=1.9, p99_ms=29, p99_of_p50=14) == (
        "p50 2.0 ms, at most 1.9",
        "p99 30.0 ms, at most 29",
        "p99 is 15.0 x the median, at most 14",
    )


def test_a_handler_that_sleeps_for_20_ms_is_noticed() -> None:
    # Two threads that each sleep 20 ms answer 100 calls a second; in process the same handler answers 5,000.
    threshold = read_thresholds(THRESHOLDS)["search-single"]
    asleep = judge("search-single", report([40.0] * 100, every_s=0.01), threshold, 5000.0)
    awake = judge("search-single", report([2.0] * 100, every_s=0.001), threshold, 5000.0)
    assert asleep.misses == ("p50 40.0 ms, at most 15", "0.020 of the in-process limit, at least 0.06")
    assert awake.misses == ()


def test_fewer_calls_than_offered_are_a_miss() -> None:
    assert misses(report([1.0] * 10, every_s=0.01), asked_for=120.0) == ()
    assert misses(report([1.0] * 10, every_s=0.01), asked_for=130.0) == ("100 calls a second where 130 were offered",)


def test_steps_are_judged_one_by_one() -> None:
    # Ten calls a second for two seconds, of 1 ms and then of 9 ms, and the begin of a third.
    calls = read_calls(report([1.0] * 10 + [9.0] * 10 + [1.0], every_s=0.1))
    assert steps(calls, 1.0) == [(10.0, 1.0, 1.0), (10.0, 9.0, 9.0)]


def test_unknown_thresholds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.toml"
    for text, reason in (
        ("[a]\np98_ms = 1\n", "no threshold is named p98_ms"),
        ('[a]\nof = "b"\nshare = 0.5\n', "of names a table above it"),
        ("[a]\nshare = 0.5\n", "share and of belong together"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_thresholds(path)


def test_table_and_page_show_what_was_missed() -> None:
    good = judge("good", report([1.0] * 5), Threshold(), 400.0)
    bad = judge("<bad>", report([1.0], status="Internal"), Threshold(), None)
    lines = to_table([good, bad]).splitlines()
    assert lines[1].split() == ["good", "5", "100", "0.250", "1.0", "1.0", "1.0", "ok"]
    assert lines[2].endswith("1 of 1 calls failed: Internal")
    shown = page.render("Load", [good, bad], {"good": [(10.0, 1.0, 2.0)]}, "a & b")
    assert "1 of 1 calls failed: Internal" in shown
    assert "&lt;bad&gt;" in shown
    assert "a &amp; b" in shown
    assert 'src="http' not in shown


def test_every_configuration_counts_errors_and_has_thresholds() -> None:
    names = {path.stem for path in CONFIGS.glob("*.json")}
    assert names == set(read_thresholds(THRESHOLDS))
    for name in names:
        config = read_config(name)
        assert (config["name"], config["count-errors"]) == (name, True)
