"""The connection between a worker process and the parent that started it: one socket pair.

```
parent ─── settings, one JSON line ──► worker
parent ◄── "listening" ─────────────── worker
end of file on either side: the other process has ended
```

The kernel closes the sockets of a process however the process ends. So a worker notices that its parent has ended, and
ends too. Otherwise it would go on to share the port with the workers of a new parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any, TypeVar

from retrieval.serving.runtime.config import ServerConfig

VARIABLE = "TWO_TOWER_WORKER_FD"
"""Environment variable with the file descriptor of the worker's end. Only a parent sets it."""

LISTENING = b"listening\n"

C = TypeVar("C", bound=ServerConfig)


def encode_settings(config: ServerConfig) -> bytes:
    """Returns the settings as one JSON line."""
    paths = {key: str(value) for key, value in vars(config).items() if isinstance(value, Path)}
    plain = {key: value for key, value in vars(config).items() if key not in paths}
    return json.dumps({"plain": plain, "paths": paths}).encode() + b"\n"


def decode_settings(line: bytes, config_class: type[C]) -> C:
    """Returns the settings that `encode_settings` wrote."""
    read = json.loads(line)
    fields: dict[str, Any] = {**read["plain"], **{key: Path(value) for key, value in read["paths"].items()}}
    return config_class(**fields)


class Lifeline:
    """The worker's end of the connection."""

    def __init__(self, descriptor: int) -> None:
        """Takes the file descriptor of the worker's end."""
        self._socket = socket.socket(fileno=descriptor)

    @staticmethod
    def inherited() -> Lifeline | None:
        """Returns the worker's end of the connection if this process is a worker, else None.

        Unsets the environment variable that names the file descriptor, so that no child process uses it.
        """
        descriptor = os.environ.pop(VARIABLE, None)
        return None if descriptor is None else Lifeline(int(descriptor))

    def read_settings(self, config_class: type[C]) -> C:
        """Returns the settings that the parent sent.

        Args:
            config_class: class of the settings, the same as in the parent.
        """
        with self._socket.makefile("rb") as stream:
            return decode_settings(stream.readline(), config_class)

    def say_listening(self) -> None:
        """Tells the parent that this worker listens."""
        with contextlib.suppress(OSError):  # the parent has ended, which `watch` handles
            self._socket.sendall(LISTENING)

    def watch(self) -> None:
        """Starts a thread that sends SIGTERM to this process when the parent has ended, so that it drains."""
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                if self._socket.recv(64):
                    continue
            except OSError:
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            return
