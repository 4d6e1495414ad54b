"""The limit on log lines of one kind."""

from __future__ import annotations

from retrieval.serving.runtime.log_budget import LogBudget


def test_writes_twenty_lines_at_once_then_one_a_second_and_counts_the_rest() -> None:
    budget = LogBudget(now=100.0)
    assert sum(budget.spend(100.0) for _ in range(50)) == 20
    assert [budget.spend(100.5), budget.spend(101.0), budget.spend(101.5)] == [False, True, False]
    # 30 at first, and 2 of the last 3.
    assert budget.take_left_out(109.0) == 0
    assert budget.take_left_out(110.0) == 32
    assert budget.take_left_out(130.0) == 0


def test_a_flood_of_a_day_is_bounded() -> None:
    budget = LogBudget(now=0.0)
    written = reports = left_out = 0
    for second in range(0, 86_400):
        for event in range(10):
            written += budget.spend(second + event / 10)
        if count := budget.take_left_out(second + 0.95):
            reports, left_out = reports + 1, left_out + count
    left_out += budget.take_left_out(86_400.0, at_once=True)
    assert written + left_out == 864_000
    assert written <= 20 + 86_400
    assert reports <= 8_640


def test_a_quiet_time_fills_the_bucket_again() -> None:
    budget = LogBudget(now=0.0)
    assert sum(budget.spend(0.0) for _ in range(25)) == 20
    assert sum(budget.spend(1000.0) for _ in range(25)) == 20
