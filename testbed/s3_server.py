"""A real S3 server on loopback, whose answers can be made slow, cut, refused or withheld."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.services import ROOT, wait_until

_PROGRAM = ROOT / ".tools" / "bin" / "versitygw"
_BUCKET = "bundles"
_KEYS = ("tester", "not-a-secret-key")
_CHUNK_BYTES = 64 << 10
_TIMEOUT_S = 20.0


class NoServer(Exception):
    """The S3 server is not installed, and cannot be installed here; the message says why."""


@dataclass
class Faults:
    """What the way to the server does; a test may change each value at any time.

    Attributes:
        refuse: Number of the next requests that are answered with 503 Slow Down.
        cut: Number of the next answers of which half is sent.
        cut_over_bytes: Size from which an answer may be cut, in bytes.
        delay_s: Time that each answer takes, in seconds.
        frozen: Whether answers are withheld.
    """

    refuse: int = 0
    cut: int = 0
    cut_over_bytes: int = 10_000
    delay_s: float = 0.0
    frozen: bool = False


class S3Server:
    """Context in which an S3 server runs, with one bucket.

    Attributes:
        url: URL of a store in the bucket.
        faults: Faults on the way to the server.
        requests: Method and path of each request so far.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder for the objects.

        Raises:
            NoServer: the server is not installed, and cannot be installed here.
        """
        _install()
        self._folder = folder
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._relay = _Relay(self)
        self.url = f"s3://{_BUCKET}/shop/store"
        self.faults = Faults()
        self.requests: list[str] = []

    def environment(self) -> dict[str, str]:
        """Returns the environment variables of a client."""
        host, port = self._relay.server_address[:2]
        return {
            "AWS_ACCESS_KEY_ID": _KEYS[0],
            "AWS_SECRET_ACCESS_KEY": _KEYS[1],
            "AWS_ENDPOINT_URL": f"http://{host!s}:{port}",
            "AWS_REGION": "us-east-1",
            "TWO_TOWER_CACHE": str(self._folder / "cache"),
        }

    @property
    def cache(self) -> Path:
        """Folder of the copies of clients."""
        return self._folder / "cache"

    def object(self, key: str) -> Path:
        """Returns the file in which the server keeps an object of the store."""
        return self._folder / "objects" / _BUCKET / "shop" / "store" / key

    def __enter__(self) -> Self:
        """Starts the server, and the relay in front of it."""
        for name in ("objects", "sidecar"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "objects" / _BUCKET).mkdir()
        threading.Thread(target=self._relay.serve_forever, args=(0.05,), daemon=True).start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends both."""
        self.kill()
        self._relay.shutdown()
        self._relay.server_close()

    def start(self) -> None:
        """Starts the server, and waits until it listens."""
        folder = self._folder
        command = [_PROGRAM, "--quiet", "--port", f"127.0.0.1:{self._port}", "posix"]
        command += ["--sidecar", folder / "sidecar", folder / "objects"]
        environment = {**os.environ, "ROOT_ACCESS_KEY_ID": _KEYS[0], "ROOT_SECRET_ACCESS_KEY": _KEYS[1]}
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return True
            return False

        wait_until(listens, "the S3 server", _TIMEOUT_S)

    def kill(self) -> None:
        """Ends the server at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_TIMEOUT_S)
            self._process = None

    def connect(self) -> socket.socket:
        """Returns a connection to the server. Raises OSError if it does not run."""
        return socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_S)


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: S3Server) -> None:
        self.server = server
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of connections that break, which is what they are for."""


class _Connection(socketserver.BaseRequestHandler):
    """One connection of a client: a request of HTTP/1.1 at a time, each with a connection of its own to the server."""

    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        server, faults = self.server.server, self.server.server.faults
        with self.request as client:
            client.settimeout(_TIMEOUT_S)
            while head := _read_head(client):
                server.requests.append(" ".join(head.decode("latin-1").split(" ", 2)[:2]))
                body = _read_exactly(client, _length(head))
                time.sleep(faults.delay_s)
                while faults.frozen:
                    time.sleep(0.05)
                if faults.refuse > 0:
                    faults.refuse -= 1
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n")
                    continue
                with server.connect() as upstream:
                    head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
                    upstream.sendall(head[:-2] + b"Connection: close\r\n\r\n" + body)
                    answer = bytearray()
                    while chunk := upstream.recv(_CHUNK_BYTES):
                        answer += chunk
                if faults.cut > 0 and len(answer) > faults.cut_over_bytes:
                    faults.cut -= 1
                    client.sendall(answer[: len(answer) // 2])
                    return
                client.sendall(answer)
                return


def _read_head(client: socket.socket) -> bytes:
    """Returns the head of a request, with the empty line at its end; nothing if the client has ended."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            return b""
        head += byte
    return bytes(head)


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    return int(found[1]) if found else 0


def _read_exactly(client: socket.socket, size: int) -> bytes:
    body = bytearray()
    while len(body) < size:
        chunk = client.recv(min(_CHUNK_BYTES, size - len(body)))
        if not chunk:
            raise ConnectionError("the client ended within a request")
        body += chunk
    return bytes(body)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _install() -> None:
    """Installs the server where `make s3-server` does. Raises NoServer if that cannot be done here."""
    _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    with (_PROGRAM.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _PROGRAM.exists():
            return
        if shutil.which("go") is None:
            raise NoServer("there is no Go to install the S3 server with; see `make s3-server`")
        done = subprocess.run(["make", "s3-server"], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
        if done.returncode:
            raise NoServer(f"the S3 server cannot be installed here: {(done.stdout + done.stderr)[-300:]}")
