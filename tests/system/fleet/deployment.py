"""Three replicas of each service and two clients, each on a host of its own, and what can be done to them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from retrieval.store.folder_store import FolderStore
from testbed.rollout import wait_for_live
from testbed.services import ROOT, SERVICES, Replica, wait_until
from tests.system.fleet.network import Loopback, Namespaces
from tests.system.fleet.readings import ClientProcess, Endpoint, Sampler, Seen, StallClock
from tests.system.fleet.world import ANN, QUERY_TOWER, SERVER_NAME, Secrets, make_secrets
from two_tower_client.fleet import Fleet

REPLICAS = 3
"""Number of replicas of each service."""

_CLIENTS = 2
_RATE = 40.0
"""Requests a second of each client: few, so that latencies do not measure this machine."""

_PORT = 50051
_METRICS_PORT = 9100
_NAMES = {"query_tower_service": QUERY_TOWER, "ann_service": ANN}
_FIRST_HOST = {"query_tower_service": 11, "ann_service": 21}
_FIRST_CLIENT_HOST = 31
_TIMEOUT_S = 60.0
_CONNECTION_AGE_S = 8
"""Age at which clients connect anew and look the names up, in seconds. Short, so that a fault need not last long."""

HOSTS = [
    *(first + number for first in _FIRST_HOST.values() for number in range(REPLICAS)),
    *(_FIRST_CLIENT_HOST + number for number in range(_CLIENTS)),
]
"""Numbers of all hosts."""


class Deployment:
    """Context in which the replicas serve and the clients send requests.

    Attributes:
        store: Store of all replicas.
        replicas: Replicas of each service, by its package.
        sampler: Numbers of answers of each replica.
        network: Network of the hosts.
        fleet: Status of the replicas.
        machine: How long this machine keeps processes waiting.
    """

    def __init__(self, network: Namespaces | Loopback, store: FolderStore, folder: Path, flags: dict[str, str]) -> None:
        """Prepares the replicas; `__enter__` starts them.

        Args:
            network: network of the hosts.
            store: store of all replicas.
            folder: folder for logs and secrets.
            flags: further flags of every replica, by name.
        """
        self.network, self.store = network, store
        self._folder = folder
        self._hosts_file = folder / "hosts"
        self._secrets: Secrets = make_secrets(folder)
        self._clients: list[ClientProcess] = []
        self.machine = StallClock()
        self._stack = ExitStack()
        shared = {**self._secrets.flags, "metrics-port": str(_METRICS_PORT), "poll-interval-s": "0.2"}
        shared |= {"max-connection-age-s": str(_CONNECTION_AGE_S), **flags}
        self.replicas: dict[str, list[Replica]] = {
            service: [self._replica(service, _FIRST_HOST[service] + n, shared) for n in range(REPLICAS)]
            for service in SERVICES
        }
        self.sampler = Sampler(
            [Endpoint(r.service, f"http://{r.host}:{_METRICS_PORT}/metrics") for r in self._all_replicas]
        )

    def __enter__(self) -> Self:
        """Starts the replicas, then the clients, and waits until these get answers."""
        try:
            for replica in self._all_replicas:
                replica.start()
                self._stack.callback(replica.kill)
            self.fleet = self._stack.enter_context(self._fleet(self._all_replicas))
            wait_for_live(self.store, self.fleet, _TIMEOUT_S)
            self.name(self._all_replicas)
            for number in range(_CLIENTS):
                self._clients.append(self._start_client(number))
                self._stack.callback(self._clients[-1].process.kill)
            self._stack.enter_context(self.sampler)
            self._stack.enter_context(self.machine)
            wait_until(lambda: len(self.seen().latencies) > 100, "answers", _TIMEOUT_S)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all processes."""
        self._stack.close()

    def finish(self) -> Seen:
        """Ends the clients, and returns what they have seen."""
        for client in self._clients:
            client.finish()
        return self.seen()

    def seen(self) -> Seen:
        """Returns what the clients have seen so far."""
        seen = Seen()
        for client in self._clients:
            client.add_to(seen)
        return seen

    def wait_for_live(self) -> None:
        """Waits until every replica answers with the live bundle.

        Raises:
            PairError: a replica did not get there in time.
        """
        wait_for_live(self.store, self.fleet, _TIMEOUT_S)

    def restart(self, replica: Replica) -> None:
        """Stops a replica as a rollout does, starts it again, and waits until it serves."""
        replica.stop()
        replica.start()
        with self._fleet([replica]) as fleet:
            wait_until(lambda: bool(fleet.ask()[0].live_bundle), f"{replica.service} to serve", _TIMEOUT_S)

    def freeze(self, replica: Replica) -> Callable[[], None]:
        """Freezes the process of a replica, and returns what lets it go on."""
        self._signal(replica, signal.SIGSTOP)
        return lambda: self._signal(replica, signal.SIGCONT)

    def name(self, replicas: Sequence[Replica]) -> None:
        """Has the names of the services resolve to some replicas, for clients that look them up from now on."""
        lines = [f"{replica.host} {_NAMES[replica.service]}" for replica in replicas]
        self._hosts_file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def leave_out(self, replica: Replica) -> Callable[[], None]:
        """Takes a replica out of the name of its service, and returns what adds it again."""
        self.name([each for each in self._all_replicas if each is not replica])
        return lambda: self.name(self._all_replicas)

    def _signal(self, replica: Replica, number: signal.Signals) -> None:
        if replica.process is not None:
            replica.process.send_signal(number)

    @property
    def _all_replicas(self) -> list[Replica]:
        return [replica for service in SERVICES for replica in self.replicas[service]]

    def _replica(self, service: str, host: int, flags: dict[str, str]) -> Replica:
        address = self.network.address(host)
        own = {**flags, "host": address, "metrics-host": address}
        folder = self._folder / f"{service}-{host}"
        return Replica(
            service, self.store.root, folder, own, port=_PORT, host=address, prefix=self.network.prefix(host)
        )

    def _fleet(self, replicas: Sequence[Replica]) -> Fleet:
        towers, anns = ([r.address for r in replicas if r.service == service] for service in SERVICES)
        return Fleet(towers, anns, tls=self._secrets.tls(SERVER_NAME), token_file=str(self._secrets.tokens))

    def _start_client(self, number: int) -> ClientProcess:
        if self.network.has_links:
            addresses = [f"{name}:{_PORT}" for name in _NAMES.values()]
        else:  # nobody but root can change the names of this machine
            addresses = [",".join(r.address for r in self.replicas[service]) for service in SERVICES]
        command = [*self.network.prefix(_FIRST_CLIENT_HOST + number, self._hosts_file), sys.executable, "-m"]
        command += ["tests.system.fleet.client", "--store", str(self.store.root), "--rate", str(_RATE)]
        command += ["--query-tower", addresses[0], "--ann", addresses[1]]
        command += ["--certificate", str(self._secrets.certificate), "--token-file", str(self._secrets.tokens)]
        if not self.network.has_links:
            command += ["--server-name", SERVER_NAME]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients")])}
        return ClientProcess(command, environment, self._folder / f"client-{number}.log")
