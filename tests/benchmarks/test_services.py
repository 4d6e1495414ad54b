"""Measuring CPU time and calls per second of work in this process, which benchmarks compare the services with."""

from __future__ import annotations

from benchmarks.services.load import Series, measure_here


def test_work_in_this_process_is_counted_a_call() -> None:
    series, seen = Series(), list[int]()
    measure_here(seen.append, 0.01, series)
    assert seen == [0, *range(len(seen) - 1)]  # the first call warms up
    assert len(series.cpu_us) == len(series.rate) == 1
    assert series.cpu_us[0] > 0
    assert series.rate[0] > 0


def test_at_least_one_call_is_counted_however_busy_the_machine_is() -> None:
    series, seen = Series(), list[int]()
    measure_here(seen.append, 0.0, series)
    assert seen == [0, 0]
    assert series.cpu_us[0] > 0
