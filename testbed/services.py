"""Runs both services as processes on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[1]
SERVICES = ("query_tower_service", "ann_service")


class PairError(Exception):
    """A service did not reach an expected state in time, or ended; the message says where its log is."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Waits until a condition holds.

    Args:
        condition: function that returns whether the condition holds.
        what: description of the condition, for the error message.
        timeout_s: longest time to wait, in seconds.

    Raises:
        PairError: the condition did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise PairError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.02)


@dataclass
class Replica:
    """A replica of a service, run as one process, which can be stopped and started again.

    Attributes:
        service: Package of the service.
        store: Folder or URL of the bundle store.
        folder: Folder for the log and the port file of the replica.
        flags: Further flags of the service, by name.
        program: Arguments of the Python interpreter that start the service. Empty: ``-m`` and the package.
        port: Port that the replica listens on, also after a restart; 0 before the first start.
        process: Process of the replica; None before the first start.
        tree: Folder of the checkout whose code the replica runs.
        host: IP address for clients. Another than loopback needs the flag ``host`` too.
        prefix: Begin of the command that starts the process, for instance on another host.
    """

    service: str
    store: Path | str
    folder: Path
    flags: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    tree: Path = ROOT
    host: str = "127.0.0.1"
    prefix: Sequence[str] = ()

    @property
    def address(self) -> str:
        """Address of the replica for clients, ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """Path of the log file, to which every process of the replica appends."""
        return self.folder / "log"

    def start(self) -> None:
        """Starts the process and waits until it listens.

        Raises:
            PairError: the process ended, or did not listen in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        flags = {"store": str(self.store), "port": str(self.port), "port-file": str(port_file), **self.flags}
        program = self.program or ("-m", self.service)
        command = [*self.prefix, sys.executable, *program, *(w for n, v in flags.items() for w in (f"--{n}", v))]
        # First on the path, so that neither an installed project nor the caller's own checkout is run instead.
        python_path = os.pathsep.join([str(self.tree), str(self.tree / "clients")])
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": python_path}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.tree, env=environment, stderr=log, stdout=log)
        process = self.process

        def listens() -> bool:
            if process.poll() is not None:
                raise PairError(f"{self.service} ended with code {process.returncode}:\n{self._last_lines()}")
            return port_file.exists()

        wait_until(listens, f"{self.service} to listen; its log is {self.log}")
        self.port = int(port_file.read_text())

    def is_serving(self) -> bool:
        """Returns whether the replica's health service reports SERVING; False if it does not answer."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    def wait_until_serving(self, timeout_s: float = 60.0) -> None:
        """Waits until the replica's health service reports SERVING.

        Raises:
            PairError: it did not within `timeout_s` seconds. The message has the end of the log, because the log file
                may have been removed when the message is read.
        """
        try:
            wait_until(self.is_serving, f"{self.service} to serve", timeout_s)
        except PairError as error:
            raise PairError(f"{error}; its log ends with:\n{self._last_lines()}") from None

    def kill(self) -> None:
        """Kills the process with SIGKILL, to simulate a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Stops the process with SIGTERM, so that it drains; kills it if that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])


class Pair:
    """Context in which replicas of both services run on one store; no process is left behind at its end.

    Attributes:
        query_towers: Replicas of the query tower service.
        anns: Replicas of the ANN service.
    """

    def __init__(
        self,
        store: Path | str,
        folder: Path,
        replicas: int = 1,
        flags: Mapping[str, str] | None = None,
        programs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Prepares the replicas; `__enter__` starts them.

        Args:
            store: folder or URL of the bundle store.
            folder: folder for logs and port files.
            replicas: number of replicas of each service.
            flags: flags of every replica, by name.
            programs: arguments of the Python interpreter that start a service, by its package. Default: ``-m`` and the
                package.
        """
        flags = {"poll-interval-s": "0.2", "drain-delay-s": "0", **(flags or {})}
        self.query_towers, self.anns = (
            [
                Replica(service, store, folder / f"{service}-{number}", flags, (programs or {}).get(service, ()))
                for number in range(replicas)
            ]
            for service in SERVICES
        )

    @property
    def replicas(self) -> list[Replica]:
        """Replicas of both services."""
        return [*self.query_towers, *self.anns]

    def __enter__(self) -> Pair:
        """Starts all replicas, and waits until each serves a bundle."""
        try:
            for replica in self.replicas:
                replica.start()
            for replica in self.replicas:
                replica.wait_until_serving()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops all replicas."""
        self.stop()

    def stop(self) -> None:
        """Stops all replicas."""
        for replica in self.replicas:
            replica.stop()
