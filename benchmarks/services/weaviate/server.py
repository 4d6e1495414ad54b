"""A Weaviate server of one node, without telemetry and without modules."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.services import ROOT, PairError, wait_until

PROGRAM = ROOT / ".tools" / "bin" / "weaviate-server"
HTTP_PORT, GRPC_PORT = 8080, 50051
_CLUSTER_PORTS = {
    "CLUSTER_GOSSIP_BIND_PORT": "7100",
    "CLUSTER_DATA_BIND_PORT": "7101",
    "RAFT_PORT": "8300",
    "RAFT_INTERNAL_RPC_PORT": "8301",
}
_START_S, _STOP_S = 60.0, 20.0


class WeaviateServer:
    """Context in which a Weaviate server runs on fixed ports.

    Its gRPC port and its ports for other nodes listen on all interfaces, whatever its settings. So start it in a
    network namespace that has loopback alone, as `benchmarks.services.weaviate` does.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder for its data and its log."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the server, which has no child processes."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        """Starts the server, and waits until it is ready.

        Raises:
            PairError: it ended, or was not ready in time. The message has the end of its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "PERSISTENCE_DATA_PATH": str(self._folder / "data"),
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "ENABLE_MODULES": "",
            "LOG_LEVEL": "warning",
            "GRPC_PORT": str(GRPC_PORT),
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_IN_LOCALHOST": "true",
            "CLUSTER_BIND_ADDR": "127.0.0.1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            **_CLUSTER_PORTS,
        }
        command = [str(PROGRAM), "--scheme", "http", "--host", "127.0.0.1", "--port", str(HTTP_PORT)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env={**os.environ, **settings}, stdout=log, stderr=log
            )
        process = self._process

        def is_ready() -> bool:
            if process.poll() is not None:
                raise PairError(f"Weaviate ended with code {process.returncode}:\n{self._last_lines()}")
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/v1/.well-known/ready", None, 2),
            ):
                return True
            return False

        try:
            wait_until(is_ready, "Weaviate to be ready", _START_S)
        except PairError as error:
            self._stop()
            raise PairError(f"{error}; its log ends with:\n{self._last_lines()}") from None
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the server, by force if it does not end in time."""
        self._stop()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_STOP_S)

    @property
    def _log(self) -> Path:
        return self._folder / "weaviate.log"

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
