"""The workers of a training over several processes, as the environment variable ``TF_CONFIG`` lists them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import RunError

_VARIABLE = "TF_CONFIG"
_TASKS = ("chief", "worker")
"""Types of tasks that train, in the order in which TensorFlow numbers them."""
_POLL_S = 0.2
_EXAMPLE = (
    'expected such as {"cluster": {"worker": ["10.0.0.6:2222", "10.0.0.7:2222"]}, "task": {"type": "worker", '
    '"index": 0}}, or leave it unset to train in one process'
)


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
        both = socket.has_dualstack_ipv6()  # IPv4 and IPv6, as TensorFlow listens
        try:
            listener = socket.create_server(
                ("", int(port)), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
            )
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


def check_wait(wait_s: float) -> None:
    """Checks a time to wait for other workers, in seconds.

    Raises:
        RunError: It is negative, infinite or no number.
    """
    if not (math.isfinite(wait_s) and wait_s >= 0):
        raise RunError(f"--worker-wait-s is {wait_s}, expected a number of seconds, 0 or more")


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the workers that ``TF_CONFIG`` lists, or None if it is unset or lists a single one.

    An empty ``cluster`` means one process too, as for TensorFlow; a ``task`` without ``cluster`` is refused.

    Args:
        environment: Environment variables. Default: those of the process.

    Raises:
        RunError: The variable cannot be understood, or an address cannot be used.
    """
    text = environment.get(_VARIABLE, "").strip()
    if not text:
        return None
    try:
        raw = json.loads(text)
        if raw.get("task") and "cluster" not in raw:
            raise ValueError("it has a task, but no cluster")
        tasks = {kind: addresses for kind, addresses in raw.get("cluster", {}).items() if addresses}
        if other := sorted(set(tasks) - set(_TASKS)):
            raise RunError(
                f"{_VARIABLE} has tasks of type {' and '.join(other)}; only {' and '.join(_TASKS)} train, so leave "
                "them out"
            )
        for kind, of_kind in tasks.items():
            if not isinstance(of_kind, list):
                raise TypeError(f"{kind} is {of_kind!r}, which is no list of addresses")
        addresses = tuple(address for kind in _TASKS for address in tasks.get(kind, ()))
        for number, address in enumerate(addresses):
            _check_address(address)
            if address in addresses[:number]:
                raise RunError(f"{_VARIABLE} lists {address} twice; each worker has an address of its own")
        if not addresses or (len(addresses) == 1 and not raw.get("task")):
            return None
        kind, number = raw["task"]["type"], _index(raw["task"]["index"])
        own = tasks[kind][number]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{_VARIABLE} is {text[:200]!r}, which names no worker ({type(error).__name__}: {error}); {_EXAMPLE}"
        ) from error
    return None if len(addresses) == 1 else Cluster(addresses, addresses.index(own), has_chief="chief" in tasks)


def _check_address(address: Any) -> None:
    """Raises RunError if a value is no address of a worker, such as ``10.0.0.6:2222`` or ``[::1]:2222``."""
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    try:
        host.encode("idna")  # as `socket` does
        is_host = bool(host) and host.isprintable() and " " not in host
    except UnicodeError:  # an empty label, one over 63 characters, or half a character
        is_host = False
    if not is_host:
        raise RunError(f"{_VARIABLE} has the address {address!r}, whose host is no name; write HOST:PORT")
    if re.fullmatch("[0-9]{1,5}", port) is None or not 1 <= int(port) <= 65535:
        raise RunError(f"{_VARIABLE} has the address {address!r}, whose port is not 1 to 65535; write HOST:PORT")


def _index(value: Any) -> int:
    """Returns the index of a task, a whole number or the text of one. Raises ValueError if it is something else."""
    if isinstance(value, bool) or re.fullmatch("[0-9]{1,9}", str(value)) is None:
        raise ValueError(f"the index of the task is {value!r}, expected 0, 1 and so on")
    return int(value)


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
