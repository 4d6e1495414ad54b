"""The workers of a training over several processes, as the environment variable ``TF_CONFIG`` lists them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import RunError

_VARIABLE = "TF_CONFIG"
_TASKS = ("chief", "worker")
"""Types of tasks that train, in the order in which TensorFlow numbers them."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Cluster:
    """The workers that train together, and which of them this process is.

    Attributes:
        addresses: ``host:port`` of each worker, at least two; worker 0 is the chief.
        index: Index of this worker.
        has_chief: Whether worker 0 is a task of type ``chief``, so that task 0 of type ``worker`` is worker 1.
    """

    addresses: tuple[str, ...]
    index: int
    has_chief: bool = False

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run, evaluates and publishes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Returns the name of a worker for messages, such as ``worker 1 (10.0.0.7:2222)``."""
        return f"worker {index} ({self.addresses[index]})"

    def index_of(self, kind: str, number: int) -> int:
        """Returns the index of the worker that is task `number` of type `kind`, ``chief`` or ``worker``."""
        return number + (kind == "worker" and self.has_chief)

    def meet(self, wait_s: float) -> None:
        """Waits until every worker has begun and can be reached from here, and this one from every other.

        TensorFlow would wait without end for a worker that does not come. Each worker connects to the port of each
        other one and says which one it is; afterwards the ports are free for TensorFlow.

        Args:
            wait_s: Longest time to wait in seconds.

        Raises:
            RunError: Some worker has not come in this time, or the port of this one cannot be used.
        """
        others = set(range(len(self.addresses))) - {self.index}
        reached: set[int] = set()
        heard: set[int] = set()
        deadline = time.monotonic() + wait_s
        with self._listen() as listener:
            # A worker leaves only when it has heard each other one, so that none waits for a worker that has left.
            while reached < others or heard < others:
                reached |= {index for index in others - reached if self._call(index)}
                with contextlib.suppress(OSError):  # nobody calls, or breaks off
                    hello = _read(listener)
                    heard |= {index for index in others if self._hello(index) == hello}
                if time.monotonic() > deadline and (reached < others or heard < others):
                    missing = " and ".join(self.name(index) for index in sorted(others - (reached & heard)))
                    raise RunError(
                        f"{missing} did not come within {wait_s:g} s: start the same command with the same workers in "
                        f"{_VARIABLE} on each of them, and see that their ports can be reached; --worker-wait-s waits "
                        "longer"
                    )

    def _listen(self) -> socket.socket:
        port = self.addresses[self.index].rpartition(":")[2]
        try:
            listener = socket.create_server(("", int(port)))
        except OSError as error:
            raise RunError(
                f"cannot listen on port {port} of {self.name(self.index)} in {_VARIABLE}: {error}"
            ) from error
        listener.settimeout(_POLL_S)
        return listener

    def _call(self, index: int) -> bool:
        host, _, port = self.addresses[index].rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0) as connection:
                connection.sendall(self._hello(self.index))
        except OSError:
            return False
        return True

    def _hello(self, index: int) -> bytes:
        """Returns what worker `index` says to the others; workers of another cluster say something else."""
        return hashlib.sha256(json.dumps([self.addresses, index]).encode()).digest()


def _read(listener: socket.socket) -> bytes:
    """Accepts a connection and returns the first bytes of it, as many as a hello has."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(1.0)
        return connection.recv(hashlib.sha256().digest_size, socket.MSG_WAITALL)


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the workers that ``TF_CONFIG`` lists, or None if it is unset or lists a single one.

    Args:
        environment: Environment variables. Default: those of the process.

    Raises:
        RunError: The variable cannot be understood.
    """
    text = environment.get(_VARIABLE, "").strip()
    if not text:
        return None
    try:
        raw = json.loads(text)
        tasks = {kind: list(addresses) for kind, addresses in raw.get("cluster", {}).items() if addresses}
        if other := sorted(set(tasks) - set(_TASKS)):
            raise RunError(
                f"{_VARIABLE} has tasks of type {' and '.join(other)}; only {' and '.join(_TASKS)} train, so leave "
                "them out"
            )
        addresses = tuple(address for kind in _TASKS for address in tasks.get(kind, ()))
        for address in addresses:
            int(address.rpartition(":")[2])
        if len(addresses) < 2:
            return None
        kind, number = raw["task"]["type"], int(raw["task"]["index"])
        own = tasks[kind][number]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise RunError(
            f"{_VARIABLE} is {text[:200]!r}, which names no worker ({type(error).__name__}: {error}); expected such as "
            '{"cluster": {"worker": ["10.0.0.6:2222", "10.0.0.7:2222"]}, "task": {"type": "worker", "index": 0}}, '
            "or leave it unset to train in one process"
        ) from error
    return Cluster(addresses, addresses.index(own), has_chief="chief" in tasks)


def refuse_cluster(what: str) -> None:
    """Refuses a command that runs in one process.

    Args:
        what: Name of the command.

    Raises:
        RunError: ``TF_CONFIG`` lists several workers.
    """
    if (cluster := read_cluster()) is not None:
        raise RunError(
            f"{_VARIABLE} lists {len(cluster.addresses)} workers, and `{what}` runs in one process: unset it; `train` "
            "is the command that several workers run"
        )
