"""What ties a worker process to the parent that started it: one socket pair, in both directions.

```
parent ─── settings, one JSON line ──► worker
parent ◄── "listening" ─────────────── worker
either side's end of file: the other has ended
```

The kernel closes the ends of a process however it ends, so no worker outlives its parent, and goes on to share the
port with the workers of the next one.
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

from serving.config import ServerConfig

VARIABLE = "TWO_TOWER_WORKER_FD"
"""Names the file descriptor of the worker's end. Only a parent sets it."""

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
    """The worker's end."""

    def __init__(self, descriptor: int) -> None:
        """Takes the file descriptor, which `VARIABLE` names."""
        self._socket = socket.socket(fileno=descriptor)

    @staticmethod
    def inherited() -> Lifeline | None:
        """Returns the worker's end if this process is a worker, and forgets it: a child of a worker is none."""
        descriptor = os.environ.pop(VARIABLE, None)
        return None if descriptor is None else Lifeline(int(descriptor))

    def read_settings(self, config_class: type[C]) -> C:
        """Returns the settings, of the class that the parent read them into."""
        with self._socket.makefile("rb") as stream:
            return decode_settings(stream.readline(), config_class)

    def say_listening(self) -> None:
        """Tells the parent."""
        with contextlib.suppress(OSError):  # the parent has ended; `watch` deals with that
            self._socket.sendall(LISTENING)

    def watch(self) -> None:
        """Sends this process SIGTERM, from a thread, once the parent has ended: it drains."""
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
