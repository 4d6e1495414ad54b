"""The most expensive requests of at most 4 MiB (issue 17, 3).

The request is sent once with a short deadline, and the CPU time of the process shows when the service stopped to work
on it. Then two callers repeat the request, while another caller sends 50 single searches per second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.attack.callers import run
from benchmarks.attack.calls import OK, Load
from benchmarks.attack.rows import Row
from benchmarks.attack.services import ANN, METHOD, QUERY_TOWER, Setup, call, cpu_s, pid_of, wait_until_idle
from testbed.services import Replica

NAME = "cpu"
_DEADLINE_S = 0.25
_STEP_S, _BUSY_S = 0.01, 0.002
_IDLE_S, _LONGEST_S = 0.5, 4.0
_TIMEOUT_S, _PATIENCE_S = 2.0, 1.0


def attack(setup: Setup) -> Iterator[Row]:
    """Yields two rows for each request: the work past the deadline, and the longest wait of another caller."""
    for service in (ANN, QUERY_TOWER):
        requests = setup.requests.costly_searches if service == ANN else setup.requests.costly_queries
        with _IdleService(setup, service) as idle:
            for name, request in requests.items():
                yield _judge_deadline(setup, idle.get(), f"{service}, {name}", request)
                yield _judge_wait(setup, idle.get(), f"{service}, {name}", request)


class _IdleService:
    """Context that holds a running service, and replaces it if it still works on an earlier request."""

    def __init__(self, setup: Setup, service: str) -> None:
        self._setup, self._service = setup, service
        self._stack, self._replica = ExitStack(), None

    def __enter__(self) -> _IdleService:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def get(self) -> Replica:
        """Returns a replica that is idle.

        Raises:
            PairError: the service did not start.
        """
        if self._replica is None or not wait_until_idle(pid_of(self._replica), _PATIENCE_S):
            self._stack.close()
            self._replica = self._stack.enter_context(self._setup.serving(self._service))
            run(_single(self._setup, self._replica, 0.5))
        return self._replica


def _single(setup: Setup, replica: Replica, seconds: float) -> Load:
    """Returns the load of the other caller: a single search or query, 50 times per second unless one is awaited."""
    work = setup.requests.work(replica.service == ANN, 1)
    metadata = (*setup.metadata, ("two-tower-caller", "single"))
    return Load(replica.address, METHOD[replica.service], work, seconds, _TIMEOUT_S, 50.0, metadata=metadata)


def _judge_deadline(setup: Setup, replica: Replica, name: str, request: bytes) -> Row:
    figure = _overrun_ms(setup, replica, METHOD[replica.service], request)
    return Row(NAME, f"{name}: work past the deadline", figure, 50.0, "ms", note=f"{len(request) / 2**20:.2f} MiB")


def _judge_wait(setup: Setup, replica: Replica, name: str, request: bytes) -> Row:
    seconds = 10.0 if setup.is_full else 1.2
    metadata = (*setup.metadata, ("two-tower-caller", "greedy"))
    greedy = Load(replica.address, METHOD[replica.service], [request], seconds, _TIMEOUT_S, None, 2, metadata)
    singles, costly = run(_single(setup, replica, seconds), greedy)
    has_failed = not len(singles.codes) or bool((singles.codes != OK).any())
    wait_ms = math.inf if has_failed else 1e3 * float(singles.latencies_s.max())
    answer = "OK" if isinstance(costly.answer, bytes) else costly.answer.split(":")[0]
    note = f"{len(singles.codes)} single calls, {int((singles.codes != OK).sum())} failed"
    note += (
        f"; {len(costly.codes)} costly calls, {1e3 * float(costly.latencies_s.mean()):,.0f} ms each, the last {answer}"
    )
    return Row(NAME, f"{name}: longest wait of a single call", wait_ms, 100.0, "ms", note=note)


def _overrun_ms(setup: Setup, replica: Replica, method: str, request: bytes) -> float:
    """Returns how long the process worked on a request after the deadline of its caller, in ms, 0 to 4,000.

    A hundredth of a second in which the process used more than 2 ms of CPU time counts as work: the watch of the store
    uses less. The end is the last such one before half a second without any.
    """
    pid, deadline = pid_of(replica), time.monotonic() + _DEADLINE_S
    call(replica.address, method, request, _DEADLINE_S, setup.metadata)
    if (pause := deadline - time.monotonic()) > 0:
        time.sleep(pause)
    last_cpu = cpu_s(pid)
    last_busy, last_time = deadline, time.monotonic()
    while last_time - last_busy < _IDLE_S and last_time - deadline < _LONGEST_S:
        time.sleep(_STEP_S)
        now, cpu = time.monotonic(), cpu_s(pid)
        if cpu - last_cpu > _BUSY_S:
            last_busy = now
        last_time, last_cpu = now, cpu
    return 1e3 * (last_busy - deadline)
