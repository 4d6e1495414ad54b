"""A Ray cluster on this machine: each node is a few processes with a loopback address of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from testbed.services import ROOT

_STORE_BYTES = 80_000_000
"""Size of the object store of each node: answers are small."""

_STARTS = 3
"""Number of tries to start a node."""
_HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""How Ray finds that a node is dead, unless the environment says otherwise: by so many failed checks in a row. By
default Ray takes five, 3 s apart, before it starts the actors of the node elsewhere."""


class Cluster:
    """A running cluster: a head without actors, and nodes. Its nodes can be removed and added.

    Attributes:
        address: Address of the cluster, for ``--ray-address``.
    """

    def __init__(self, made: Any, cpus: int) -> None:
        """Takes Ray's cluster, and the number of CPUs of each node."""
        self._made, self._cpus = made, cpus
        self._nodes: dict[str, Any] = {}
        self.address: str = made.address

    @property
    def nodes(self) -> list[str]:
        """Addresses of the nodes that run."""
        return sorted(self._nodes)

    def add(self, address: str) -> None:
        """Starts a node with a loopback address that no other node has.

        Ray gives a node 30 s to start, which cannot be set, and a very busy machine takes longer: it is tried again.

        Raises:
            RuntimeError: it does not start.
        """
        for left in reversed(range(_STARTS)):
            try:
                self._nodes[address] = self._made.add_node(
                    wait=False,
                    num_cpus=self._cpus,
                    node_ip_address=address,
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                )
                return
            except Exception as error:  # Ray raises no other
                if not left:
                    raise RuntimeError(f"Ray's node {address} did not start in {_STARTS} tries: {error}") from error

    def remove(self, address: str) -> None:
        """Kills a node with everything that runs on it: its processes one after the other, then its actors notice."""
        self._made.remove_node(self._nodes.pop(address), allow_graceful=False)

    def cut_power(self, address: str) -> None:
        """Kills all processes of a node with SIGKILL at once, its actors too, and removes it from the cluster."""
        for process in self.processes(address):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.remove(address)

    def processes(self, address: str | None = None) -> list[psutil.Process]:
        """Returns the processes of a node, actors included; of all nodes, and of the head, without an address."""
        nodes = [self._made.head_node, *self._nodes.values()] if address is None else [self._nodes[address]]
        found: list[psutil.Process] = []
        for node in nodes:
            for started in [info for infos in node.all_processes.values() for info in infos]:
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(started.process.pid)
                    found += [process, *process.children(recursive=True)]
        return found

    def actors(self, address: str) -> list[psutil.Process]:
        """Returns the processes of the actors of a node."""
        found: list[psutil.Process] = []
        for process in self.processes(address):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::_Actor"):
                    found.append(process)
        return found


@contextmanager
def ray_cluster(node_count: int = 3, cpus: int = 2) -> Iterator[Cluster]:
    """Runs a cluster, which ends with the context.

    Args:
        node_count: number of nodes.
        cpus: number of CPUs that each node claims to have: with ``--shard-cpus 1``, the number of its actors.

    Raises:
        ImportError: the extra ``ray`` is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in _HEALTH_CHECKS.items():
        os.environ.setdefault(name, value)
    # Actors run the code of this checkout, whichever is installed.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "clients")])
    from ray.cluster_utils import Cluster as RayCluster

    # Not 127.0.0.1, which Ray replaces by the address of another interface.
    head = {
        "num_cpus": 0,
        "node_ip_address": "127.0.0.2",
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
    }
    made = RayCluster(initialize_head=True, head_node_args=head)
    try:
        cluster = Cluster(made, cpus)
        for number in range(node_count):
            cluster.add(f"127.0.0.{3 + number}")
        yield cluster
    finally:
        made.shutdown()
