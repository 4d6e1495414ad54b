"""Pauses of the cores."""

from __future__ import annotations

import os

from bench import host


def test_a_core_with_work_to_do_is_seen_to_pause_where_another_program_has_it_too() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    os.sched_setaffinity(0, {core})
    try:
        # Both spin on this one core: each waits for the other half of the time, for milliseconds on end.
        count, share = host.pauses(0.5, [core, core])
    finally:
        os.sched_setaffinity(0, allowed)
    assert count > 10
    assert 0.3 < share < 0.7
