"""The threads that answer calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from retrieval.serving.rpc.thread_pool import CallPool
from retrieval.serving.runtime.metrics import Metrics


@pytest.fixture
def pool() -> Iterator[CallPool]:
    made = CallPool(2, Metrics())
    yield made
    made.shutdown()


def test_runs_one_call_per_thread_and_counts_calls_in_flight(pool: CallPool) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def block(number: int, *, answered: list[int]) -> None:
        entered.release()
        assert release.wait(10)
        answered.append(number)

    answered: list[int] = []
    for number in range(3):
        pool.submit(block, number, answered=answered)
    assert entered.acquire(timeout=10)
    assert entered.acquire(timeout=10)
    assert not entered.acquire(timeout=0.05)  # the third has to wait for a thread
    assert pool.in_flight == 3
    assert not pool.wait_idle(0.05)
    release.set()
    assert pool.wait_idle(10)
    assert sorted(answered) == [0, 1, 2]


def test_runs_a_done_callback_even_if_it_is_added_after_the_end(pool: CallPool) -> None:
    release, ended = threading.Event(), threading.Semaphore(0)
    finished: list[Any] = []

    def note(task: Any) -> None:
        finished.append(task)
        ended.release()

    task = pool.submit(release.wait, 10)
    task.add_done_callback(note)
    assert not finished
    release.set()
    assert ended.acquire(timeout=10)
    task.add_done_callback(note)
    assert finished == [task, task]


def fail(*_: object) -> None:
    raise SystemExit("inner")


def fail_in_a_call(pool: CallPool) -> None:
    pool.submit(fail)


def fail_once_it_has_ended(pool: CallPool) -> None:
    release = threading.Event()
    pool.submit(release.wait, 10).add_done_callback(fail)
    release.set()


@pytest.mark.parametrize(
    ("submit", "logged"),
    [
        (fail_in_a_call, "a call failed outside of its handler"),
        (fail_once_it_has_ended, "a done callback of a call failed"),
    ],
)
def test_thread_survives_a_call_or_callback_that_raises(
    pool: CallPool, capsys: pytest.CaptureFixture[str], submit: Callable[[CallPool], None], logged: str
) -> None:
    for _ in range(5):
        submit(pool)
    seen: list[int] = []
    pool.submit(seen.append, 1)
    assert pool.wait_idle(10)
    assert seen == [1]
    pool.shutdown()  # done callbacks run after the call is counted
    assert logged in capsys.readouterr().out


def test_failed_thread_start_is_repeated_for_the_next_call(pool: CallPool, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_finishes_every_accepted_call_when_shut_down_meanwhile() -> None:
    for _ in range(50):
        pool = CallPool(2, Metrics())
        seen: list[int] = []
        accepted = threading.Event()

        def submit(pool: CallPool = pool, seen: list[int] = seen, accepted: threading.Event = accepted) -> int:
            for count in range(1_000_000):
                try:
                    pool.submit(seen.append, count)
                except RuntimeError:
                    return count
                accepted.set()
            raise AssertionError("the pool was not shut down")

        with ThreadPoolExecutor(1) as caller:
            submitted = caller.submit(submit)
            assert accepted.wait(10)
            pool.shutdown()
            assert len(seen) == submitted.result(10)
        assert pool.in_flight == 0


def test_refuses_calls_after_shutdown(pool: CallPool) -> None:
    seen: list[int] = []
    pool.submit(seen.append, 1)
    pool.shutdown()
    assert seen == [1]  # a call that was accepted before is finished
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(seen.append, 2)
    assert pool.in_flight == 0


def test_no_call_is_lost_among_many_threads(pool: CallPool) -> None:
    finished: list[int] = []
    ended: list[object] = []

    def submit(start: int) -> None:
        for number in range(start, start + 500):
            pool.submit(finished.append, number).add_done_callback(ended.append)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(submit, range(0, 2000, 500)))
    assert pool.wait_idle(10)
    pool.shutdown()
    assert sorted(finished) == list(range(2000))
    assert len(ended) == 2000
