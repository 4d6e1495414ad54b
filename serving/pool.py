"""The threads that answer calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Any

import structlog

from serving.metrics import Metrics

_LOOK_S = 0.01

_log = structlog.get_logger("pool")


class CallPool(Executor):
    """A thread pool for gRPC that knows how many calls it was given and has not finished.

    gRPC asks a pool for two things alone: `submit`, and of what that returns `add_done_callback`; results stay in the
    call. A `ThreadPoolExecutor` makes a future with a condition and a lock for each call, and wakes whoever waits for
    it, which is nobody.
    """

    def __init__(self, threads: int, metrics: Metrics) -> None:
        """Takes the number of threads, and where the count is shown."""
        metrics.in_flight.set_function(lambda: self.in_flight)
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._given = self._finished = 0

    @property
    def in_flight(self) -> int:
        """Calls given and not finished."""
        return self._given - self._finished

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Runs a call in one of the threads, as soon as one is free.

        Returns:
            A task. ``add_done_callback(f)`` calls ``f`` with it once it has ended, at once where it has.

        Raises:
            RuntimeError: the pool is shut down.
        """
        task = _Task(self._lock, fn, args, kwargs)
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool is shut down")
            self._start_threads()
            self._given += 1
            self._waiting.put(task)
        return task

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no call is in flight; returns whether that came to be."""
        end = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return not self.in_flight

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; those in flight are finished. Calls are never cancelled.

        Args:
            wait: for the threads to end.
            cancel_futures: makes no difference.
        """
        with self._lock:
            self._is_shut_down = True
            for _ in self._threads:
                self._waiting.put(None)  # behind every call
        for thread in self._threads if wait else ():
            thread.join()

    def _start_threads(self) -> None:
        while len(self._threads) < self._count:
            # Daemons: a call that does not end must not keep the process from ending once the drain has timed out.
            thread = threading.Thread(target=self._run, name=f"answer_{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self) -> None:
        take = self._waiting.get
        while (task := take()) is not None:
            try:
                task.run()
            except BaseException:  # what a handler raises is a status by now; no other call may lack a thread
                _log.exception("a call failed outside of its handler")
            with self._lock:
                self._finished += 1
            try:
                task.end()
            except BaseException:
                _log.exception("what waits for the end of a call failed")
            del task  # holds the request and the response


class _Task:
    """A call in the pool."""

    __slots__ = ("_args", "_callbacks", "_fn", "_kwargs", "_lock")

    def __init__(self, lock: threading.Lock, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._lock, self._fn, self._args, self._kwargs = lock, fn, args, kwargs
        self._callbacks: list[Callable[[_Task], object]] | None = []

    def add_done_callback(self, callback: Callable[[_Task], object]) -> None:
        """Calls `callback` with this once it has ended."""
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
