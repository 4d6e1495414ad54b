"""The threads that answer calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.metrics import Metrics
from serving.pool import CallPool


@pytest.fixture
def pool() -> Iterator[CallPool]:
    made = CallPool(2, Metrics())
    yield made
    made.shutdown()


def test_runs_so_many_calls_at_once_and_counts_those_in_flight(pool: CallPool) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def block(number: int, *, told: list[int]) -> None:
        entered.release()
        assert release.wait(10)
        told.append(number)

    told: list[int] = []
    for number in range(3):
        pool.submit(block, number, told=told)
    assert entered.acquire(timeout=10)
    assert entered.acquire(timeout=10)
    assert not entered.acquire(timeout=0.05)  # the third has to wait for a thread
    assert pool.in_flight == 3
    assert not pool.wait_idle(0.05)
    release.set()
    assert pool.wait_idle(10)
    assert sorted(told) == [0, 1, 2]


def test_tells_once_that_a_call_has_ended_however_late_it_is_asked_to(pool: CallPool) -> None:
    release, ended = threading.Event(), threading.Semaphore(0)
    told: list[Any] = []

    def note(task: Any) -> None:
        told.append(task)
        ended.release()

    task = pool.submit(release.wait, 10)
    task.add_done_callback(note)
    assert not told
    release.set()
    assert ended.acquire(timeout=10)
    task.add_done_callback(note)
    assert told == [task, task]


def fail(*_: object) -> None:
    raise SystemExit("inner")


def fail_in_a_call(pool: CallPool) -> None:
    pool.submit(fail)


def fail_once_it_has_ended(pool: CallPool) -> None:
    release = threading.Event()
    pool.submit(release.wait, 10).add_done_callback(fail)
    release.set()


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (fail_in_a_call, "a call failed outside of its handler"),
        (fail_once_it_has_ended, "what waits for the end of a call failed"),
    ],
)
def test_what_fails_leaves_its_thread_to_others(
    pool: CallPool, capsys: pytest.CaptureFixture[str], give: Callable[[CallPool], None], said: str
) -> None:
    for _ in range(5):
        give(pool)
    seen: list[int] = []
    pool.submit(seen.append, 1)
    assert pool.wait_idle(10)
    assert seen == [1]
    pool.shutdown()  # what waits for the end of a call is told after it is counted
    assert said in capsys.readouterr().out


def test_a_thread_that_cannot_be_started_is_started_for_the_next_call(
    pool: CallPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    seen: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(seen.append, 1)
    assert pool.in_flight == 0
    pool.submit(seen.append, 2)
    assert pool.wait_idle(10)
    assert seen == [2]


def test_every_call_it_takes_is_finished_though_it_is_shut_down_meanwhile() -> None:
    for _ in range(50):
        pool = CallPool(2, Metrics())
        seen: list[int] = []
        taken = threading.Event()

        def give(pool: CallPool = pool, seen: list[int] = seen, taken: threading.Event = taken) -> int:
            for count in range(1_000_000):
                try:
                    pool.submit(seen.append, count)
                except RuntimeError:
                    return count
                taken.set()
            raise AssertionError("it was not shut down")

        with ThreadPoolExecutor(1) as giver:
            given = giver.submit(give)
            assert taken.wait(10)
            pool.shutdown()
            assert len(seen) == given.result(10)
        assert pool.in_flight == 0


def test_takes_no_call_once_it_is_shut_down(pool: CallPool) -> None:
    seen: list[int] = []
    pool.submit(seen.append, 1)
    pool.shutdown()
    assert seen == [1]  # what it was given before is finished
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(seen.append, 2)
    assert pool.in_flight == 0


def test_no_call_is_lost_among_many_threads(pool: CallPool) -> None:
    told: list[int] = []
    ended: list[object] = []

    def give(start: int) -> None:
        for number in range(start, start + 500):
            pool.submit(told.append, number).add_done_callback(ended.append)

    with ThreadPoolExecutor(4) as givers:
        list(givers.map(give, range(0, 2000, 500)))
    assert pool.wait_idle(10)
    pool.shutdown()
    assert sorted(told) == list(range(2000))
    assert len(ended) == 2000
