"""Pauses of the cores."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bench import host

# Nothing goes before it, the watcher neither; for 30 ms the core does nothing else, as where the host has it.
_TAKE = """
import os, time
os.sched_setaffinity(0, {{{core}}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
began = time.time()
while time.time() < began + 0.03:
    pass
print(began, time.time())
"""


def test_a_core_that_is_taken_away_is_seen_and_calls_of_that_time_are_not_spared() -> None:
    core = min(os.sched_getaffinity(0))
    with host.watched([core]) as pauses:
        time.sleep(0.2)
        done = subprocess.run(
            [sys.executable, "-c", _TAKE.format(core=core)], capture_output=True, text=True, check=False
        )
        time.sleep(0.2)
    if done.returncode:
        assert "PermissionError" in done.stderr
        pytest.skip("needs real-time priority")
    began, ended = map(float, done.stdout.split())
    assert pauses.watched_s > 0.4
    seen = [span for span in pauses.spans if span[0] <= began + 0.001 and span[1] >= ended - 0.001]
    assert len(seen) == 1
    assert not pauses.spared(np.array([began + 0.01]), np.array([ended])).any()


def test_calls_are_spared_but_for_those_under_way_in_a_pause_and_shortly_after_it() -> None:
    pauses = host.Pauses(watched_s=10.0, spans=np.array([[1.0, 1.1], [5.0, 5.2]]))
    began = np.array([0.8, 0.9, 1.05, 1.1 + host.AFTERWARDS_S / 2, 1.2, 4.9, 6.0])
    ended = np.array([0.9, 1.05, 1.3, 1.3, 1.3, 5.3, 6.1])
    assert pauses.spared(began, ended).tolist() == [True, False, False, False, True, False, True]
    assert pauses.per_second == 0.2


def test_where_cores_cannot_be_watched_nothing_is_claimed() -> None:
    unseen = host.Pauses()
    assert math.isnan(unseen.per_second)
    assert not unseen.spared(np.array([1.0]), np.array([2.0])).any()
