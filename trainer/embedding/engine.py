"""Runs tasks in processes of this machine; `trainer.embedding.ray_engine` runs them on a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol

from trainer.embedding import tasks
from trainer.embedding.tasks import Job
from trainer.errors import RunError

WAITING_TASKS = 4
"""Number of tasks for each process that wait for it or run."""

_LOOK_S = 0.5
"""Longest wait in seconds after which Ctrl-C is noticed."""


class Engine(Protocol):
    """Runs the tasks of a job."""

    def run(self, task: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields the position of each argument and the result of the task on it, or a `Fault`, in any order.

        Args:
            task: Name in `trainer.embedding.tasks.TASKS`.
            arguments: An argument for each call.

        Raises:
            RunError: Processes die.
        """
        ...

    def close(self) -> None:
        """Ends what runs."""
        ...


class LocalEngine(Engine):
    """Processes of this machine, each with one thread of TensorFlow."""

    def __init__(self, job: Job, process_count: int) -> None:
        """Takes the job, and the number of processes, at least 1; they are started by the first tasks."""
        self._job, self._count = job, process_count
        # Started anew, not forked: a fork of a process with threads may hang.
        self._pool = ProcessPoolExecutor(process_count, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def run(self, task: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `Engine`."""
        waiting = iter(range(len(arguments)))
        running: dict[Future[Any], int] = {}
        try:
            while True:
                while len(running) < WAITING_TASKS * self._count and (number := next(waiting, None)) is not None:
                    running[self._pool.submit(tasks.run, self._job, task, arguments[number])] = number
                if not running:
                    return
                done, _ = wait(running, _LOOK_S, FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a process that embeds was killed, probably for lack of memory: use fewer with --processes, or smaller "
                "slices with --slice-rows in a new folder; the same command goes on where it ended"
            ) from error

    def close(self) -> None:
        """See `Engine`. Slices that are being embedded are finished, unless this process ends at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone, which may have been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
