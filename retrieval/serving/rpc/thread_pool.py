"""The threads that answer calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Any

import structlog

from retrieval.serving.runtime.metrics import Metrics

_LOOK_S = 0.01

_log = structlog.get_logger("pool")


class CallPool(Executor):
    """A thread pool for gRPC that counts the calls in flight.

    gRPC uses `submit` of a pool, and `add_done_callback` of the task that it returns, and nothing else. A
    `ThreadPoolExecutor` would make a future with a lock and a condition for each call, for which nobody waits.
    """

    def __init__(self, threads: int, metrics: Metrics) -> None:
        """Prepares the pool; threads start with the first call.

        Args:
            threads: number of threads.
            metrics: shows the number of calls in flight.
        """
        metrics.in_flight.set_function(lambda: self.in_flight)
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._submitted = self._finished = 0

    @property
    def in_flight(self) -> int:
        """Number of calls submitted and not finished."""
        return self._submitted - self._finished

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Queues a call for the next free thread.

        Returns:
            The task. Its ``add_done_callback(f)`` calls ``f(task)`` once the call has ended.

        Raises:
            RuntimeError: the pool is shut down.
        """
        task = _Task(self._lock, fn, args, kwargs)
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool is shut down")
            self._start_threads()
            self._submitted += 1
            self._waiting.put(task)
        return task

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no call is in flight; returns False if that took longer than `timeout_s`."""
        end = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return not self.in_flight

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further calls. Calls in flight are finished; none is cancelled.

        Args:
            wait: whether to wait for the threads to end.
            cancel_futures: ignored; part of the interface of `Executor`.
        """
        with self._lock:
            self._is_shut_down = True
            for _ in self._threads:
                self._waiting.put(None)  # queued after every call
        for thread in self._threads if wait else ():
            thread.join()

    def _start_threads(self) -> None:
        while len(self._threads) < self._count:
            # Daemon threads: a call that never ends must not keep the process alive after the drain has timed out.
            thread = threading.Thread(target=self._run, name=f"answer_{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self) -> None:
        next_task = self._waiting.get
        while (task := next_task()) is not None:
            try:
                task.run()
            except BaseException:  # handlers turn their exceptions into statuses; any other must not end this thread
                _log.exception("a call failed outside of its handler")
            with self._lock:
                self._finished += 1
            try:
                task.end()
            except BaseException:
                _log.exception("a done callback of a call failed")
            del task  # frees the request and the response


class _Task:
    """A call of the pool."""

    __slots__ = ("_args", "_callbacks", "_fn", "_kwargs", "_lock")

    def __init__(self, lock: threading.Lock, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._lock, self._fn, self._args, self._kwargs = lock, fn, args, kwargs
        self._callbacks: list[Callable[[_Task], object]] | None = []

    def add_done_callback(self, callback: Callable[[_Task], object]) -> None:
        """Calls `callback` with this task once its call has ended; immediately if it has already."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback(self)

    def run(self) -> None:
        self._fn(*self._args, **self._kwargs)

    def end(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)
