"""Doing the work of calls in slices, in the event loop and in threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from retrieval.serving.answering.call import Call
from retrieval.serving.answering.errors import DeadlinePassed, Overloaded, Stopping
from retrieval.serving.answering.limit import WaitingLimit
from retrieval.serving.answering.runners import SLICE_S, Runners
from tests.retrieval.serving.answering.calls import Recorder


def make(method: Recorder, body: str, caller: str = "a", *, budget_s: float = 20.0) -> Call:
    now = time.monotonic()
    return Call(method, body.encode(), caller, now, now + budget_s, asyncio.get_running_loop().create_future())


def run(scenario: Callable[[Runners], Coroutine[Any, Any, None]], **limits: int) -> None:
    """Runs a scenario with runners of two threads."""

    async def started() -> None:
        runners = Runners(**{"threads": 2, "max_in_flight": 100, "max_bytes": 1 << 20, **limits})
        runners.start()
        try:
            await asyncio.wait_for(scenario(runners), 60)
        finally:
            runners.stop(Stopping)

    asyncio.run(started())


@pytest.mark.parametrize("is_short", [True, False])
def test_every_call_is_answered_once(is_short: bool) -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(is_short=is_short)
        calls = [make(method, f"{number}:3", f"caller {number % 7}") for number in range(60)]
        for call in calls:
            runners.submit(call)
        await asyncio.gather(*(call.answered for call in calls))
        assert [call.response for call in calls] == [call.body for call in calls]
        assert sorted(method.seen) == sorted([call.body for call in calls] * 3)
        assert (runners.in_flight, runners.waiting) == (0, 0)

    run(scenario)


@pytest.mark.parametrize(("own", "of_threads"), [(0, 5), (8, 13), (15, 19)])
def test_threads_leave_the_core_to_the_event_loop_at_every_priority(own: int, of_threads: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) > own:
        pytest.skip("the tests run at a lower priority")
    seen = list[int]()

    async def scenario(runners: Runners) -> None:
        call = make(Priority(seen), "long:1")
        runners.submit(call)
        await call.answered

    def with_own_priority() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own)
        run(scenario)

    loop = threading.Thread(target=with_own_priority)
    loop.start()
    loop.join()
    assert seen == [of_threads]


class Priority(Recorder):
    """Notes the priority of the thread that answers."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self._priorities = seen

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        self._priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return super().answer(calls)


def test_a_long_call_lets_short_ones_pass_between_its_slices() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=SLICE_S)
        long = make(method, "long:400", "a")
        runners.submit(long)
        for number in range(20):
            short = make(method, f"short {number}:1", "b")
            runners.submit(short)
            await short.answered
            assert not long.answered.done()
        await long.answered

    run(scenario)


def test_a_short_call_that_turns_out_to_be_long_goes_on_in_a_thread() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=SLICE_S, is_short=True)
        call = make(method, "x:50")
        runners.submit(call)
        turns = 0
        while not call.answered.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert call.response == b"x:50"
        assert turns > 5  # the event loop went on meanwhile

    run(scenario)


def test_work_stops_once_the_deadline_has_passed_or_the_caller_has_left() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.001)
        late, gone = make(method, "late:100000", "a", budget_s=0.1), make(method, "gone:100000", "b")
        runners.submit(late)
        runners.submit(gone)
        await asyncio.sleep(0.05)
        gone.has_left = True
        await asyncio.gather(late.answered, gone.answered)
        assert isinstance(late.error, DeadlinePassed)
        seen = len(method.seen)
        await asyncio.sleep(0.05)
        assert len(method.seen) == seen

    run(scenario)


def test_calls_that_wait_too_long_are_refused() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.5)
        running, waiting = make(method, "running", "a"), make(method, "waiting", "b", budget_s=0.3)
        runners.submit(running)
        runners.submit(waiting)
        while not waiting.answered.done():
            await asyncio.sleep(0.005)
            runners.expire()
        assert isinstance(waiting.error, Overloaded)
        assert method.seen == [b"running"]
        assert not running.answered.done()
        await running.answered

    run(scenario, threads=1)


def test_a_call_that_is_prepared_counts_as_in_flight_with_what_was_fetched_for_it() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.05)
        first = make(method, "x" * 300)
        runners.admit(first)
        assert (runners.in_flight, runners.waiting) == (1, 0)
        with pytest.raises(Overloaded):
            runners.admit(make(method, "x" * 701))
        first.prepared_bytes = 600
        runners.queue(first)
        with pytest.raises(Overloaded):
            runners.submit(make(method, "x" * 101))
        await first.answered
        second, third = make(method, "x" * 1000), make(method, "x" * 1000)
        runners.admit(second)
        runners.release(second)
        runners.submit(third)  # all room is free again
        await third.answered
        assert runners.in_flight == 0

    run(scenario, max_bytes=1000)


def test_a_call_for_which_too_much_was_fetched_is_refused_itself() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.05)
        other, large = make(method, "x" * 300), make(method, "x" * 300)
        runners.submit(other)
        runners.admit(large)
        large.prepared_bytes = 500
        with pytest.raises(Overloaded, match="fetched"):
            runners.queue(large)
        assert runners.in_flight == 1
        last = make(method, "x" * 700)
        runners.submit(last)  # its room is free again
        await asyncio.gather(other.answered, last.answered)

    run(scenario, max_bytes=1000)


def test_calls_and_bytes_in_flight_are_limited() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.05)
        first = make(method, "x" * 600)
        runners.submit(first)
        with pytest.raises(Overloaded, match="requests of 1000 bytes are in flight"):
            runners.submit(make(method, "x" * 401))
        second = make(method, "x" * 400)
        runners.submit(second)
        with pytest.raises(Overloaded, match="2 requests are in flight"):
            runners.submit(make(method, ""))
        await asyncio.gather(first.answered, second.answered)
        runners.submit(make(method, "x" * 1000))

    run(scenario, max_in_flight=2, max_bytes=1000)


def test_a_caller_with_none_waiting_finds_room_beyond_the_limit() -> None:
    async def scenario(runners: Runners) -> None:
        runners._limit = WaitingLimit(4)
        method = Recorder(step_s=0.3)
        running = make(method, "running", "a")
        runners.submit(running)
        while not running.started_at:
            await asyncio.sleep(0.001)
        calls = [make(method, f"{number}", "greedy") for number in range(4)]
        for call in calls:
            runners.check_room("greedy")
            runners.submit(call)
        with pytest.raises(Overloaded, match="as many requests wait"):
            runners.check_room("greedy")
        for number in range(4):
            runners.check_room(f"other {number}")
            runners.submit(make(method, "x", f"other {number}"))
        with pytest.raises(Overloaded, match="as many requests wait"):
            runners.check_room("one too many")

    run(scenario, threads=1)


def test_what_is_not_answered_at_the_stop_gets_an_error() -> None:
    async def scenario(runners: Runners) -> None:
        method = Recorder(step_s=0.01)
        calls = [make(method, f"{number}:1000", f"caller {number}") for number in range(5)]
        for call in calls:
            runners.submit(call)
        await asyncio.sleep(0.05)
        runners.stop(Stopping)
        await asyncio.gather(*(call.answered for call in calls))
        assert {type(call.error) for call in calls} == {Stopping}

    run(scenario)


def test_a_bug_in_a_method_fails_its_calls_and_no_others() -> None:
    class Faulty(Recorder):
        def answer(self, calls: Any) -> Any:
            raise RuntimeError("a bug")

    async def scenario(runners: Runners) -> None:
        broken, whole = make(Faulty(), "x"), make(Recorder(), "y")
        runners.submit(broken)
        runners.submit(whole)
        await asyncio.gather(broken.answered, whole.answered)
        assert str(broken.error) == "a bug"
        assert whole.response == b"y"

    run(scenario)
