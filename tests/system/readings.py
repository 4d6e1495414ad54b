"""Reads metrics, memory, descriptors and threads of a running service."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping

import psutil


def free_port() -> int:
    """Returns a port that was free when this function was called; another process may take it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def read_metric(port: int, name: str) -> float:
    """Returns the value of an unlabelled metric from the Prometheus endpoint on `port`.

    Raises:
        KeyError: the endpoint has no metric of this name.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise KeyError(name)


def resources(pid: int) -> Mapping[str, float]:
    """Returns the resources of a process by name: private memory in MiB, and three counts.

    The counts are those of mapped files, descriptors and threads.
    """
    process = psutil.Process(pid)
    memory = process.memory_full_info()
    bundle_files = {m.path for m in process.memory_maps(grouped=True) if "/bundles/" in m.path}
    return {
        "memory_mib": memory.uss / 2**20,
        "mapped_files": len(bundle_files),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }
