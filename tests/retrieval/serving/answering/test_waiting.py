"""The order in which calls that wait are taken."""

from __future__ import annotations

import time

import pytest

from retrieval.serving.answering.call import SMALL_BYTES
from retrieval.serving.answering.waiting import INTERVAL_S, Waiting
from tests.retrieval.serving.answering.calls import Recorder, call


def take(waiting: Waiting, now: float | None = None) -> list[str]:
    """Takes a job, runs it to its end in no time, and returns the bodies of its calls."""
    job = waiting.take(time.monotonic() if now is None else now)
    if job is None:
        return []
    assert list(job.calls[0].method.answer(job.calls)) != []
    waiting.finish(job, 0.0)
    return [each.body.decode() for each in job.calls]


def test_the_calls_of_a_caller_are_taken_in_the_order_of_arrival() -> None:
    waiting, method = Waiting(), Recorder()
    for body in "123":
        waiting.add(call(method, body))
    assert [take(waiting) for _ in range(4)] == [["1"], ["2"], ["3"], []]


def test_a_caller_with_many_calls_does_not_delay_a_caller_with_one() -> None:
    waiting, method = Waiting(), Recorder()
    for number in range(5):
        waiting.add(call(method, f"a{number}", "a"))
    job = waiting.take(time.monotonic())
    assert job is not None
    waiting.add(call(method, "b0", "b"))
    waiting.finish(job, 0.010)  # caller a has now had ten milliseconds, caller b none
    assert take(waiting) == ["b0"]
    assert take(waiting) == ["a1"]


def test_time_is_shared_evenly_between_callers_whatever_their_calls_cost() -> None:
    waiting, method = Waiting(), Recorder()
    for number in range(60):
        waiting.add(call(method, f"a{number}", "a"))
        waiting.add(call(method, f"b{number}", "b"))
    spent = {"a": 0.0, "b": 0.0}
    for _ in range(60):
        job = waiting.take(time.monotonic())
        assert job is not None
        caller = job.calls[0].caller
        cost_s = 0.001 if caller == "a" else 0.005
        spent[caller] += cost_s
        waiting.finish(job, cost_s)
    assert abs(spent["a"] - spent["b"]) <= 0.005


def test_an_idle_caller_saves_up_nothing() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "b0", "b"))
    assert take(waiting) == ["b0"]
    for number in range(3):
        waiting.add(call(method, f"a{number}", "a"))
        job = waiting.take(time.monotonic())
        assert job is not None
        waiting.finish(job, 1.0)
    for number in range(3):
        waiting.add(call(method, f"a{number}", "a"))
        waiting.add(call(method, f"b{number}", "b"))
    bodies = []
    for _ in range(4):
        job = waiting.take(time.monotonic())
        assert job is not None
        bodies.append(job.calls[0].body.decode())
        waiting.finish(job, 0.001)
    assert sorted(bodies) == ["a0", "a1", "b0", "b1"]


def test_a_paused_job_waits_until_a_new_caller_was_served() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "l" * (SMALL_BYTES + 1), "a"))
    job = waiting.take(time.monotonic())
    assert job is not None
    waiting.add(call(method, "short", "b"))
    waiting.pause(job, 0.002)
    assert take(waiting) == ["short"]
    again = waiting.take(time.monotonic())
    assert again is job
    waiting.finish(job, 0.0)


def test_of_a_callers_paused_jobs_a_small_one_goes_on_first() -> None:
    waiting, method = Waiting(), Recorder()
    jobs = []
    for body in ("l" * (SMALL_BYTES + 1), "small"):
        waiting.add(call(method, body, "a"))
        job = waiting.take(time.monotonic(), with_paused=False)
        assert job is not None
        jobs.append(job)
    for job in jobs:
        waiting.pause(job, 0.002)
    assert waiting.take(time.monotonic()) is jobs[1]


def test_paused_jobs_of_a_caller_do_not_go_before_the_calls_of_others() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "small", "a"))
    job = waiting.take(time.monotonic())
    assert job is not None
    waiting.add(call(method, "next", "b"))
    waiting.pause(job, 0.05)
    assert take(waiting) == ["next"]
    assert waiting.take(time.monotonic()) is job


def test_a_caller_with_a_paused_job_is_not_forgotten() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "a0", "a"))
    job = waiting.take(time.monotonic())
    assert job is not None
    waiting.pause(job, 1.0)
    waiting.add(call(method, "late", "c", remaining_s=-1.0))
    assert len(waiting.take_expired(time.monotonic())) == 1
    waiting.add(call(method, "a1", "a"))
    waiting.add(call(method, "b0", "b"))
    assert [take(waiting), take(waiting)] == [["b0"], ["a1"]]  # caller a has had a second already
    assert waiting.take(time.monotonic()) is job
    waiting.finish(job, 0.0)


@pytest.mark.parametrize(("body", "most"), [("small", 4), ("l" * (SMALL_BYTES + 1), 2)])
def test_while_many_jobs_are_paused_a_caller_begins_one_at_most(body: str, most: int) -> None:
    waiting, method = Waiting(), Recorder()
    for _ in range(most + 2):
        waiting.add(call(method, body, "greedy"))
    begun = 0
    while (job := waiting.take(time.monotonic(), with_paused=False)) is not None:
        waiting.pause(job, 0.002)
        begun += 1
    assert begun == most
    waiting.add(call(method, body, "other"))
    waiting.add(call(method, body, "other"))
    job = waiting.take(time.monotonic(), with_paused=False)
    assert job is not None
    assert job.calls[0].caller == "other"
    waiting.pause(job, 0.002)
    assert waiting.take(time.monotonic(), with_paused=False) is None


def test_under_overload_the_newest_call_goes_first_and_old_ones_are_refused() -> None:
    waiting, method = Waiting(), Recorder()
    bodies = [f"c{number}" for number in range(4)]
    for body in bodies:
        waiting.add(call(method, body, remaining_s=0.9))
    started = time.monotonic()
    assert waiting.take_expired(started) == []
    later = started + 2 * INTERVAL_S  # calls have waited without a gap, longer than a thirtieth of 0.9 s
    assert waiting.is_overloaded(later)
    assert take(waiting, later) == ["c3"]
    expired = waiting.take_expired(later)
    assert sorted(each.body.decode() for each in expired) == ["c0", "c1", "c2"]
    assert waiting.fresh_count == 0
    waiting.add(call(method, "fresh"))
    assert not waiting.is_overloaded(time.monotonic())


def test_calls_that_wait_without_a_gap_but_briefly_are_answered_in_order_of_arrival() -> None:
    # Many callers that call again at once leave no gap; newest first, the oldest would wait until it is refused.
    waiting, method = Waiting(), Recorder()
    for number in range(4):
        waiting.add(call(method, f"c{number}", remaining_s=10.0))
    later = time.monotonic() + 2 * INTERVAL_S  # longer than `INTERVAL_S`, and less than a sixth of 10 s
    assert waiting.is_overloaded(later)
    assert [take(waiting, later) for _ in range(4)] == [["c0"], ["c1"], ["c2"], ["c3"]]


def test_under_overload_a_call_with_little_time_goes_before_older_ones_of_its_caller_with_much() -> None:
    waiting, method = Waiting(), Recorder()
    for number in range(3):
        waiting.add(call(method, f"patient-{number}", remaining_s=30.0))
    later = time.monotonic() + 2 * INTERVAL_S
    hurried = call(method, "hurried", remaining_s=0.6)
    hurried.received_at, hurried.deadline = later, later + 0.6  # a sixth of it, 0.1 s, is less than the others waited
    waiting.add(hurried)
    assert [take(waiting, later) for _ in range(2)] == [["hurried"], ["patient-0"]]


def test_a_call_waits_a_third_of_its_time_and_less_under_overload() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "new", "c"))
    waiting.add(call(method, "patient", age_s=0.4, remaining_s=1.1))  # waits until 0.5 s
    waiting.add(call(method, "hurried", "b", age_s=0.4, remaining_s=0.5))  # until 0.3 s
    now = time.monotonic()
    assert [each.body for each in waiting.take_expired(now)] == [b"hurried"]
    assert [each.body for each in waiting.take_expired(now + 0.2)] == [b"patient"]


def test_a_call_without_a_deadline_does_not_wait_for_ever() -> None:
    waiting, method = Waiting(), Recorder()
    waiting.add(call(method, "endless"))
    now = time.monotonic()
    assert waiting.take_expired(now + 5.9) == []
    assert [each.body for each in waiting.take_expired(now + 6.1)] == [b"endless"]


def test_a_call_whose_caller_has_given_up_is_taken_out() -> None:
    waiting, method = Waiting(), Recorder()
    gone, late = call(method, "gone"), call(method, "late", "b", remaining_s=-0.001)
    gone.has_left = True
    for each in (gone, late, call(method, "here", "c")):
        waiting.add(each)
    assert {each.body for each in waiting.take_expired(time.monotonic())} == {b"gone", b"late"}
    assert take(waiting) == ["here"]


def test_small_calls_of_a_method_are_taken_together_and_large_ones_alone() -> None:
    waiting, method, other = Waiting(), Recorder(max_shared=3), Recorder(max_shared=3)
    for number in range(4):
        waiting.add(call(method, f"m{number}", f"caller {number}"))
    waiting.add(call(method, "l" * (SMALL_BYTES + 1), "large"))
    waiting.add(call(other, "other", "d"))
    assert take(waiting) == ["m0", "m1", "m2"]
    assert take(waiting) == ["m3"]
    assert take(waiting) == ["other"]
    assert [len(body) for body in take(waiting)] == [SMALL_BYTES + 1]


def test_nothing_is_kept_of_callers_that_have_no_calls() -> None:
    waiting, method = Waiting(), Recorder()
    for number in range(100):
        waiting.add(call(method, "x", f"caller {number}"))
        assert take(waiting) == ["x"]
    for number in range(100):
        waiting.add(call(method, "x", f"caller {number}", remaining_s=-1.0))
    assert len(waiting.take_expired(time.monotonic())) == 100
    assert waiting.take(time.monotonic()) is None
    assert waiting._callers == {}
