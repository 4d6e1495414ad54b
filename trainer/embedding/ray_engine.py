"""Runs tasks on the nodes of a Ray cluster (https://docs.ray.io). Only this module of the trainer uses Ray.

Ray starts a task anew, on another node, when its process or node dies. A part that is written twice has the
same bytes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it would report to its makers

import ray
from ray.exceptions import RayError, RayTaskError

from trainer.embedding import tasks
from trainer.embedding.engine import WAITING_TASKS, Engine
from trainer.embedding.tasks import Job
from trainer.errors import RunError

_RETRIES = 10
"""Number of times that a task is started anew because its process or node died."""
_LEAST_WAITING = 16
"""Least number of tasks that are submitted at once, also to a cluster that has yet to grow."""
_QUIET_S = 60.0
"""Time in seconds without a finished task after which a note says so."""

_ray: Any = ray
"""Ray, without its types, which do not cover its options."""


class RayEngine(Engine):
    """Tasks on a Ray cluster, each of which reserves one CPU."""

    def __init__(self, job: Job, address: str, tell: Callable[[str], None]) -> None:
        """Joins the cluster.

        Args:
            job: The job.
            address: Address of the cluster, ``HOST:PORT`` or ``auto``.
            tell: Receives a sentence when no task ends for a long time.

        Raises:
            RunError: The cluster cannot be reached.
        """
        self._job, self._tell = job, tell
        # Ray prints what nodes report on stdout, which is for the result of the command.
        self._printing = contextlib.ExitStack()
        self._printing.enter_context(contextlib.redirect_stdout(sys.stderr))
        host = address.rsplit(":", 1)[0]
        own_address = {"_node_ip_address": host} if host.startswith("127.") else {}  # otherwise Ray finds it
        try:
            _ray.init(
                address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True, **own_address
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._printing.close()
            raise RunError(
                f"--ray-address {address}: no Ray cluster can be joined ({error}); start one with `ray start --head`, "
                "or name the address of one"
            ) from error
        self._run: Any = _ray.remote(tasks.run).options(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")

    def run(self, task: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `Engine`.

        Raises:
            RunError: A task was started too often, or the cluster is gone.
        """
        waiting = iter(range(len(arguments)))
        running: dict[Any, int] = {}
        last = time.monotonic()
        while True:
            most = max(_LEAST_WAITING, WAITING_TASKS * int(_ray.cluster_resources().get("CPU", 0)))
            while len(running) < most and (number := next(waiting, None)) is not None:
                running[self._run.remote(self._job, task, arguments[number])] = number
            if not running:
                return
            ready, _ = _ray.wait(list(running), num_returns=1, timeout=1.0)
            for reference in ready:
                yield running.pop(reference), _result_of(reference)
                last = time.monotonic()
            if time.monotonic() - last > _QUIET_S:
                self._tell(
                    f"no task has ended for {_QUIET_S:.0f} s; `ray status` says whether the cluster has free CPUs"
                )
                last = time.monotonic()

    def close(self) -> None:
        """Leaves the cluster, which ends the tasks."""
        _ray.shutdown()
        self._printing.close()


def _result_of(reference: Any) -> Any:
    try:
        return _ray.get(reference)
    except RayTaskError:  # a bug: tasks return what is wrong
        raise
    except RayError as error:
        raise RunError(
            f"the cluster failed a task {_RETRIES + 1} times, or is gone ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); `ray status` and the logs of Ray say more. Run the same command again: it "
            "goes on where it ended"
        ) from error
