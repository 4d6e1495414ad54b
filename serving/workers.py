"""Several worker processes on one port, started and watched by one parent.

```
parent   reserve the port ─► start worker 1 … N ─► all listen: write the port file ─► watch
worker   bind the port with SO_REUSEPORT; the kernel deals out connections
a worker ends         ─► start it again after a pause that doubles while it keeps ending early
SIGTERM to the parent ─► SIGTERM to all, which drain; exit code 0 if each of them left with 0
a second signal       ─► SIGKILL to all; exit code 1
the parent is killed  ─► each worker notices and drains
```

Workers are started anew, not forked: gRPC does not survive a fork. Each watches the store by itself, so they swap
bundles as replicas behind one address do, which the client's protocol handles.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from bundle.files import replace_text
from serving.config import ServerConfig
from serving.cores import THREAD_VARIABLES, library_threads
from serving.lifeline import LISTENING, VARIABLE, encode_settings

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""A worker that ran for so long, in seconds, is started again after the shortest pause."""

_GRACE_S = 10.0
"""Beyond the configured time for a drain, in seconds, until a worker that has not ended is killed."""

_CANNOT_START = 2
"""Exit code of a worker whose settings cannot be used."""

_log = structlog.get_logger("workers")


def reserve_port(host: str, port: int) -> list[socket.socket]:
    """Returns bound sockets, one an address of `host`, all of one port that workers can share.

    They never listen. Each is bound without SO_REUSEPORT, which fails where anybody listens already, even one that
    would share; only then is sharing switched on, for the workers.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Raises:
        ValueError: the port cannot be had.
    """
    held: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            held.append(socket.socket(family, kind, protocol))
            # As servers do: connections of the last one that linger are no reason to refuse.
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                held[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = held[0].getsockname()[1] if len(held) > 1 else port
            held[-1].bind((address[0], taken, *address[2:]))
        for each in held:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        for each in held:
            each.close()
        raise ValueError(
            f"cannot listen on {host}:{port}: {error}; if another process listens there, choose another --port"
        ) from error
    return held


@dataclass
class _Worker:
    """One place for a worker process, and the process that fills it now.

    Attributes:
        number: 1 to N.
        settings: one line, sent to each process.
        process: the current one, or the last.
        lifeline: to it; None while none runs.
        starts: processes so far.
        started_at: moment of the last start, in seconds of the monotonic clock.
        pause_s: before the next start.
        due_at: moment of the next start; None unless one waits.
        listens: the process has said so.
    """

    number: int
    settings: bytes
    process: subprocess.Popen[bytes] | None = None
    lifeline: socket.socket | None = None
    starts: int = 0
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    due_at: float | None = None
    listens: bool = False


class Workers:
    """The parent's side. Used by one thread: `run` once."""

    def __init__(self, program: Sequence[str], config: ServerConfig) -> None:
        """Takes the parts; nothing runs yet.

        Args:
            program: command and arguments that start a process of the service.
            config: its settings; each worker gets a copy made by `ServerConfig.for_worker`.
        """
        self._program = list(program)
        self._config = config
        self._count = config.worker_count
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._stopping_since: float | None = None
        self._code = 0
        self._announced = False
        self._port = 0

    def run(self, wakes: socket.socket) -> int:
        """Starts the workers, keeps them running until told to stop, and returns the exit code.

        Args:
            wakes: readable once a byte came for each signal.

        Raises:
            ValueError: the port cannot be had.
        """
        held = reserve_port(self._config.host, self._config.port)
        self._port = held[0].getsockname()[1]
        self._workers = [
            _Worker(number, encode_settings(self._config.for_worker(number, self._port)))
            for number in range(1, self._count + 1)
        ]
        self._selector.register(wakes, selectors.EVENT_READ)
        try:
            for worker in self._workers:
                self._start(worker)
            while self._stopping_since is None or any(worker.lifeline for worker in self._workers):
                for key, _ in self._selector.select(self._wait_s()):
                    if key.data is None:
                        self._stop(len(wakes.recv(64)))
                    else:
                        self._hear(key.data)
                self._tick()
        finally:
            self._kill()
            for each in held:
                each.close()
        return self._code

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, VARIABLE: str(theirs.fileno())}
        for name in THREAD_VARIABLES:
            environment.setdefault(name, str(library_threads(self._count)))
        with theirs:
            # A process group of its own: Ctrl-C reaches the parent alone, which passes it on once.
            worker.process = subprocess.Popen(
                self._program, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        ours.sendall(worker.settings)
        worker.lifeline, worker.listens, worker.due_at = ours, False, None
        worker.starts += 1
        worker.started_at = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, worker)
        _log.info("worker starts", worker=worker.number, pid=worker.process.pid, starts=worker.starts)

    def _hear(self, worker: _Worker) -> None:
        if worker.lifeline is not None and _hears(worker.lifeline):
            worker.listens = True
            if not self._announced and all(each.listens for each in self._workers):
                self._announce()
        else:
            self._bury(worker)

    def _announce(self) -> None:
        self._announced = True
        if self._config.port_file is not None:
            replace_text(self._config.port_file, f"{self._port}\n")
        _log.info("workers listen", host=self._config.host, port=self._port, workers=self._count)

    def _bury(self, worker: _Worker) -> None:
        if worker.lifeline is None or worker.process is None:
            return
        self._selector.unregister(worker.lifeline)
        worker.lifeline.close()
        worker.lifeline, worker.listens = None, False
        code = worker.process.wait()
        if self._stopping_since is not None:
            if code:
                _log.error("worker did not drain", worker=worker.number, exit_code=code)
                self._code = self._code or 1
        elif code == _CANNOT_START and not self._announced:
            # It has said why; none of the others can do better.
            self._code = _CANNOT_START
            self._stop(1)
        else:
            if time.monotonic() - worker.started_at >= _STEADY_S:
                worker.pause_s = _FIRST_PAUSE_S
            _log.error("worker ended", worker=worker.number, exit_code=code, starts_again_in_s=worker.pause_s)
            worker.due_at = time.monotonic() + worker.pause_s
            worker.pause_s = min(2 * worker.pause_s, _LONGEST_PAUSE_S)

    def _stop(self, signals: int) -> None:
        if self._stopping_since is not None or signals > 1:
            self._stopping_since = self._stopping_since or time.monotonic()
            self._code = self._code or 1
            self._kill()
            return
        self._stopping_since = time.monotonic()
        for worker in self._workers:
            worker.due_at = None
            if worker.lifeline is not None and worker.process is not None:
                worker.process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()

    def _wait_s(self) -> float | None:
        due = [worker.due_at for worker in self._workers if worker.due_at is not None]
        if self._stopping_since is not None:
            due.append(self._drained_at())
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _drained_at(self) -> float:
        allowed_s = self._config.drain_delay_s + self._config.drain_timeout_s + _GRACE_S
        return (self._stopping_since or 0.0) + allowed_s

    def _tick(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.due_at is not None and worker.due_at <= now:
                self._start(worker)
        if self._stopping_since is not None and now >= self._drained_at():
            self._kill()


def _hears(lifeline: socket.socket) -> bool:
    try:
        return bool(lifeline.recv(len(LISTENING)))
    except ConnectionError:  # ended with something unread
        return False
