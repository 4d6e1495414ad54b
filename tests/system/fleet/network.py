"""Hosts of a fleet on this machine: Linux network namespaces on one switch, or addresses of the loopback device.

::

    namespace of a host            namespace of the switch
    eth0, 10.77.0.N  ── veth ──  port-N ── bridge "switch"
                                 port-N    bridge "switch"         the link is cut
                                 port-N ── relay ── slow-N ── bridge "switch"         the link is slow
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "two-tower-fleet-"
"""Begin of the name of each namespace of a fleet."""

_SWITCH = f"{PREFIX}switch"
_CLONE_NEWNET = 0x40000000
_FOLDER = Path("/run/netns")

# The namespace of a mount is of one process, so no other process reads this hosts file.
_WITH_HOSTS_FILE = 'mount --bind "$0" /etc/hosts && exec "$@"'


def why_no_namespaces() -> str:
    """Returns why this process cannot make network namespaces; empty if it can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    trial = f"{PREFIX}trial"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", trial], capture_output=True, check=False)
    return "" if made.returncode == 0 else made.stderr.strip()


class Loopback:
    """Hosts that are addresses of the loopback device. Their links can be neither cut nor slowed."""

    has_links = False

    def __enter__(self) -> Self:
        """Returns the network."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""

    def address(self, host: int) -> str:
        """Returns the IP address of host number `host`."""
        return f"127.0.77.{host}"

    def prefix(self, host: int, hosts_file: Path | None = None) -> Sequence[str]:
        """Returns the begin of a command that runs on a host."""
        del host, hosts_file
        return ()


class Namespaces:
    """Context in which hosts are network namespaces on one switch. This process is a host too, number 1, from then on.

    What an earlier run left behind is removed first, its processes too.
    """

    has_links = True

    def __init__(self, hosts: Sequence[int]) -> None:
        """Prepares the network; `__enter__` makes it.

        Args:
            hosts: numbers of the hosts, 2 to 254.
        """
        self._hosts = [1, *hosts]
        self._relays: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Makes the network."""
        _remove()
        try:
            _ip("netns", "add", _SWITCH)
            _switch("link", "add", "switch", "type", "bridge")
            _switch("link", "set", "switch", "up")
            for host in self._hosts:
                self._add(host)
            with (_FOLDER / _name(1)).open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter {_name(1)}")
        except BaseException:
            _remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the network and ends the processes in it, apart from this one."""
        _remove()

    def address(self, host: int) -> str:
        """Returns the IP address of host number `host`."""
        return f"10.77.0.{host}"

    def prefix(self, host: int, hosts_file: Path | None = None) -> Sequence[str]:
        """Returns the begin of a command that runs on a host.

        Args:
            host: number of the host.
            hosts_file: file that the host has as /etc/hosts. Default: that of this machine.
        """
        inside = ("ip", "netns", "exec", _name(host))
        return inside if hosts_file is None else (*inside, "sh", "-c", _WITH_HOSTS_FILE, str(hosts_file))

    def cut(self, host: int) -> None:
        """Cuts the link of a host: packets to it and from it are lost without a word."""
        _switch("link", "set", f"port-{host}", "nomaster")

    def slow(self, host: int, delay_s: float) -> None:
        """Slows the link of a host, open connections too.

        Args:
            host: number of the host.
            delay_s: time that each packet takes longer each way, in seconds.
        """
        self.cut(host)
        device = f"slow-{host}"
        relay = [sys.executable, str(Path(__file__).with_name("slow_link.py")), f"port-{host}", device, str(delay_s)]
        self._relays[host] = subprocess.Popen(["ip", "netns", "exec", _SWITCH, *relay])
        deadline = time.monotonic() + 10
        while _try_switch("link", "set", device, "master", "switch", "up") != 0:
            if time.monotonic() > deadline:
                raise OSError(f"the relay of the slow link of host {host} did not start")
            time.sleep(0.05)

    def mend(self, host: int) -> None:
        """Makes the link of a host as quick as it was."""
        if relay := self._relays.pop(host, None):
            relay.kill()
            relay.wait(10)
        _switch("link", "set", f"port-{host}", "master", "switch")

    def _add(self, host: int) -> None:
        name, port = _name(host), f"port-{host}"
        _ip("netns", "add", name)
        _switch("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _switch("link", "set", port, "master", "switch", "up")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")


def _name(host: int) -> str:
    return f"{PREFIX}host-{host}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _switch(*arguments: str) -> None:
    _ip("-n", _SWITCH, *arguments)


def _try_switch(*arguments: str) -> int:
    return subprocess.run(["ip", "-n", _SWITCH, *arguments], capture_output=True, check=False).returncode


def _remove() -> None:
    """Removes the namespaces of all fleets of this machine, and ends the processes in them, apart from this one."""
    for path in _FOLDER.glob(f"{PREFIX}*"):
        pids = subprocess.run(["ip", "netns", "pids", path.name], capture_output=True, text=True, check=False)
        for pid in map(int, pids.stdout.split()):
            if pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)
