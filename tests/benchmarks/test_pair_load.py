"""The closed loop that sends load to both services."""

from __future__ import annotations

from benchmarks.pair.load import closed_loop


def test_callers_of_a_closed_loop_share_the_numbers() -> None:
    seen: list[int] = []
    found = closed_loop(seen.append, 2, 0.01, queries_a_call=100)
    assert {0, 1} <= set(seen)
    assert len(set(seen)) == len(seen)
    # 100 queries a call, over 0.01 s and what starting two threads takes on top.
    assert 0 < found.queries_per_s <= len(seen) * 100 / 0.01
    assert found.load_us > 0
    assert found.served_us == 0
