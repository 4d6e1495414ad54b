"""The services under attack: one process of one service for each attack, on cores of its own, killed at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.attack.requests import Requests
from testbed.services import Replica

ANN, QUERY_TOWER = "ann_service", "query_tower_service"
SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
EMBED = "/two_tower.query.v1.QueryTowerService/EmbedQueries"
HEALTH = "/grpc.health.v1.Health/Check"
STATUS = {
    ANN: "/two_tower.ann.v1.AnnService/GetServingStatus",
    QUERY_TOWER: "/two_tower.query.v1.QueryTowerService/GetServingStatus",
}
METHOD = {ANN: SEARCH, QUERY_TOWER: EMBED}

_TOKEN = "token-of-the-attack"
_DRAIN_DELAY_S, _DRAIN_TIMEOUT_S = 0.5, 5.0
DRAIN_S = _DRAIN_DELAY_S + _DRAIN_TIMEOUT_S
"""Time from SIGTERM to the end of the process that the flags of the services allow, in seconds."""


@dataclass(frozen=True)
class Setup:
    """What all attacks share.

    Attributes:
        store: Folder of the bundle store.
        tree: Folder of the checkout whose services are attacked.
        folder: Folder for logs and token.
        requests: Requests for the live bundle of the store.
        is_full: Whether the numbers of the issue are used, instead of those of a quick check.
        pins: Whether service and callers run on cores of their own. Always False with one core.
    """

    store: Path
    tree: Path
    folder: Path
    requests: Requests
    is_full: bool
    pins: bool
    cores: tuple[int, ...] = field(default_factory=lambda: tuple(sorted(os.sched_getaffinity(0))))

    @property
    def service_cores(self) -> tuple[int, ...]:
        """Cores of the attacked service: the first half of all cores if `pins`."""
        return self.cores[: len(self.cores) // 2] if self.pins else self.cores

    @property
    def caller_cores(self) -> tuple[int, ...]:
        """Cores of the callers and of the harness: the second half of all cores if `pins`."""
        return self.cores[len(self.cores) // 2 :] if self.pins else self.cores

    @property
    def token(self) -> str:
        """Bearer token that the services require."""
        return _TOKEN

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call with the token."""
        return (("authorization", f"Bearer {_TOKEN}"),)

    @contextmanager
    def serving(self, service: str, **flags: str) -> Generator[Replica, None, None]:
        """Runs a service that requires a token; it is killed at the end.

        Args:
            service: package of the service.
            flags: further flags; underscores in their names become dashes.

        Raises:
            PairError: the service did not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        token_file = self.folder / "token"
        token_file.write_text(_TOKEN + "\n", encoding="utf-8")
        token_file.chmod(0o600)
        own = {
            "token-file": str(token_file),
            "drain-delay-s": str(_DRAIN_DELAY_S),
            "drain-timeout-s": str(_DRAIN_TIMEOUT_S),
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        folder = self.folder / f"{service}-{time.monotonic_ns()}"
        replica = Replica(service, self.store, folder, own, tree=self.tree)
        # The service sees all cores when it chooses its settings, as a container without a quota does. It is moved to
        # its own cores afterwards, so that the load generators do not take CPU time from it.
        os.sched_setaffinity(0, self.cores)
        try:
            replica.start()
            replica.wait_until_serving()
            _move(pid_of(replica), self.service_cores)
        except BaseException:
            replica.kill()
            raise
        finally:
            os.sched_setaffinity(0, self.caller_cores)
        try:
            yield replica
        finally:
            replica.kill()


def pid_of(replica: Replica) -> int:
    """Returns the process id of a replica that was started."""
    assert replica.process is not None
    return replica.process.pid


def cpu_s(pid: int) -> float:
    """Returns the CPU time of a process so far in seconds, exact to microseconds; 0 if it has ended."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)  # the CPU clock of a process, as clock_getcpuclockid(3) makes it
    return 0.0


def wait_until_idle(pid: int, timeout_s: float) -> bool:
    """Waits until a process has used less than a tenth of a core for 0.2 s; returns whether that happened in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        before = cpu_s(pid)
        time.sleep(0.2)
        if cpu_s(pid) - before < 0.02:
            return True
    return False


def call(address: str, method: str, request: bytes, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> str:
    """Makes one call on a connection of its own, and returns the name of its status code."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary(method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
    return "OK"


def _move(pid: int, cores: tuple[int, ...]) -> None:
    """Moves all threads of a process to some cores; threads that it starts later run there too."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)
