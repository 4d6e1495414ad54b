"""A real Redis server on loopback, which can be killed, frozen, filled, flushed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.services import wait_until

_TIMEOUT_S = 20.0


class NoRedis(Exception):
    """There is no Redis server here; the message says how to get one."""


class RedisServer:
    """Context in which a Redis server runs. It keeps its data on disk only if it is told to.

    Attributes:
        port: Port that it listens on, also after a restart.
        url: URL of its database 0.
        unix_url: URL of the same by a Unix socket.
    """

    def __init__(self, folder: Path, *options: str, keeps: bool = False) -> None:
        """Finds the program and a free port; `__enter__` starts the server.

        Args:
            folder: folder for its log, and for its data if it keeps them.
            options: further settings, in pairs of ``--name`` and value.
            keeps: whether every write is on disk before it is answered, so that nothing is lost when it is killed.

        Raises:
            NoRedis: the program is not installed.
        """
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise NoRedis("there is no redis-server here; install the package redis-server of the system")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        # A Unix socket's path has at most 107 bytes, and folders of tests have long names.
        self._socket_folder = tempfile.TemporaryDirectory(prefix="redis-")
        socket_path = Path(self._socket_folder.name) / "socket"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{socket_path}?db=0"
        durability = ("yes", "always") if keeps else ("no", "no")
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(socket_path), "--save", ""),
            *("--appendonly", durability[0], "--appendfsync", durability[1], "--dir", str(folder), *options),
        ]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the server."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the server."""
        self.kill()
        self._socket_folder.cleanup()

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

        def answers() -> bool:
            with suppress(OSError):
                return self.ask("PING") in ("+PONG", "-NOAUTH Authentication required.")
            return False

        wait_until(answers, "Redis to answer", _TIMEOUT_S)

    def kill(self) -> None:
        """Ends the server at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Stops the server: connections stay, and are accepted, but nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the server go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """Returns the first line of the reply to a command, with its type as first character."""
        parts = [word.encode() for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), _TIMEOUT_S) as connection:
            connection.sendall(message)
            with connection.makefile("rb") as reply:
                return reply.readline().decode(errors="replace").strip()
