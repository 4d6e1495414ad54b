"""Load from processes of its own, with plain grpcio: open or closed loops of calls, and what became of each call.

The load generators are processes, so that neither the harness nor the services share an interpreter with them. All
times are of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from benchmarks.attack.calls import NUMBER, OK, REFUSED, Calls, Load

_CALLERS_A_CONNECTION = 50
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.6
"""Pauses after the first and after many refusals, in seconds; they double. A retry hint lengthens them."""
_LAG_STEP_S, _STAGGER_S = 0.01, 0.5
_STARTUP_S, _GRACE_S = 20.0, 15.0


class CallersLost(Exception):
    """A load generator did not report in time."""


class Callers:
    """Load generators that run: one process for each list of loads. Use it as a context, and take `results` in it."""

    def __init__(self, groups: Sequence[Sequence[Load]]) -> None:
        """Starts the processes, and the loads once every process is connected.

        Args:
            groups: loads of each process; the loads of a process run at the same time.

        Raises:
            CallersLost: a process did not start.
        """
        context = multiprocessing.get_context("forkserver")
        self._until = (
            time.monotonic() + _GRACE_S + max(o.delay_s + o.seconds + o.timeout_s for group in groups for o in group)
        )
        self._processes: list[tuple[Any, Connection]] = []
        for group in groups:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, list(group)), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))
        ready_until = time.monotonic() + _STARTUP_S
        for _, pipe in self._processes:
            self._receive(pipe, ready_until, "connect")
        for _, pipe in self._processes:
            pipe.send(None)

    def __enter__(self) -> Callers:
        """Returns the running callers."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the processes."""
        self.stop()

    def stop(self) -> None:
        """Kills the processes that still run."""
        for process, pipe in self._processes:
            process.kill()
            process.join()
            pipe.close()

    @property
    def have_ended(self) -> bool:
        """Whether every process has reported or ended, so that `results` does not wait."""
        return all(pipe.poll() for _, pipe in self._processes)

    def results(self) -> list[list[Calls]]:
        """Waits until the loads have ended, and returns the calls of each load, by process.

        Raises:
            CallersLost: a process did not report in time.
        """
        return [self._receive(pipe, self._until, "report") for _, pipe in self._processes]

    def _receive(self, pipe: Connection, until: float, what: str) -> Any:
        with suppress(EOFError, OSError):
            if pipe.poll(max(0.0, until - time.monotonic())):
                return pipe.recv()
        self.stop()
        raise CallersLost(f"a load generator did not {what} in time")


def run(*loads: Load) -> list[Calls]:
    """Runs loads at the same time, each in a process of its own, and returns the calls of each.

    Raises:
        CallersLost: a process did not start or report in time.
    """
    with Callers([[load] for load in loads]) as callers:
        return [calls for (calls,) in callers.results()]


def _serve(pipe: Connection, loads: list[Load]) -> None:
    pipe.send(asyncio.run(_run_all(pipe, loads)))


async def _run_all(pipe: Connection, loads: list[Load]) -> list[Calls]:
    runners = [_Runner(load) for load in loads]
    await asyncio.gather(*(runner.connect() for runner in runners))
    pipe.send("connected")
    await asyncio.to_thread(pipe.recv)
    return list(await asyncio.gather(*(runner.run() for runner in runners)))


class _Runner:
    """One load in the event loop of a load generator."""

    def __init__(self, load: Load) -> None:
        self._load, self._number, self._answer = load, 0, b""
        self._records: list[tuple[float, float, int]] = []
        count = 1 if load.rate is not None else -(-load.callers // _CALLERS_A_CONNECTION)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channels = [grpc.aio.insecure_channel(load.address, options=options) for _ in range(count)]
        self._stubs = [channel.unary_unary(load.method) for channel in self._channels]

    async def connect(self) -> None:
        """Connects, or gives up after some seconds: the calls will show then that the service does not accept."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(c.channel_ready() for c in self._channels)), 5.0)

    async def run(self) -> Calls:
        """Sends the calls, and returns what became of them."""
        load, lags = self._load, list[float]()
        await asyncio.sleep(load.delay_s)
        end = time.monotonic() + load.seconds
        watch = asyncio.create_task(_watch_lag(lags))
        if load.rate is None:
            await asyncio.gather(*(self._loop(end, caller) for caller in range(load.callers)))
        else:
            await self._pace(load.rate, end)
        watch.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(channel.close(0) for channel in self._channels)), 5.0)
        columns = np.array(self._records, dtype=np.float64).reshape(-1, 3).T  # [3, n]
        codes = columns[2].astype(np.int64)
        return Calls(columns[0], columns[1], codes, load.timeout_s, np.array(lags), self._answer)

    def _is_over(self, end: float) -> bool:
        return time.monotonic() >= end or bool(self._load.max_calls and self._number >= self._load.max_calls)

    async def _loop(self, end: float, caller: int) -> None:
        refusals = 0
        if self._load.callers > _CALLERS_A_CONNECTION:  # that many callers at once are a burden for this process alone
            await asyncio.sleep(random.uniform(0.0, _STAGGER_S))
        while not self._is_over(end):
            hint_s = await self._call(caller)
            refusals = 0 if hint_s is None else refusals + 1
            if hint_s is not None:
                pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** (refusals - 1)) * random.uniform(0.5, 1.0)
                await asyncio.sleep(min(max(pause_s, hint_s), max(0.0, end - time.monotonic())))

    async def _pace(self, rate: float, end: float) -> None:
        began, tasks = time.monotonic(), set[asyncio.Task[float | None]]()
        for number in range(min(math.ceil(rate * (end - began)), self._load.max_calls or sys.maxsize)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))  # a late call lets those that have begun run first
            if time.monotonic() >= end:
                break
            tasks.add(task := asyncio.create_task(self._call(0)))
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=self._load.timeout_s + 2.0)

    async def _call(self, caller: int) -> float | None:
        """Makes one call, records it, and returns the pause that its refusal asks for in seconds; None: not refused."""
        load = self._load
        number, self._number = self._number, self._number + 1
        request = load.requests[number % len(load.requests)]
        if NUMBER in request:
            request = request.replace(NUMBER, b"%08d" % (load.first_number + number))
        began, code, pause_s = time.monotonic(), OK, None
        try:
            stub = self._stubs[caller % len(self._stubs)]
            self._answer = await stub(request, timeout=load.timeout_s, metadata=load.metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code().value[0]
            self._answer = f"{error.code().name}: {error.details()}"[:200]
            if code == REFUSED and load.rate is None:
                pause_s = _retry_delay_s(error)
        self._records.append((began, time.monotonic(), code))
        return pause_s


async def _watch_lag(lags: list[float]) -> None:
    """Appends the delay of a short sleep in seconds, again and again."""
    while True:
        due = time.monotonic() + _LAG_STEP_S
        await asyncio.sleep(_LAG_STEP_S)
        lags.append(time.monotonic() - due)


def _retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    """Returns the pause that a refusal asks for with google.rpc.RetryInfo, in seconds; 0 if it asks for none."""
    hint = error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(hint):
                    return hint.retry_delay.ToMilliseconds() / 1e3
    return 0.0
