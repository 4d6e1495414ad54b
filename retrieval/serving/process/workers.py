"""Several worker processes on one port, started and watched by one parent.

```
parent   reserve the port ─► start workers 1 … N ─► write the port file once all listen ─► watch them
worker   bind the port with SO_REUSEPORT; the kernel distributes connections among the workers
a worker ends         ─► start it again after a pause; the pause doubles as long as workers end early
SIGTERM to the parent ─► SIGTERM to all workers, which drain; exit code 0 if each of them exits with 0
SIGHUP to the parent  ─► SIGHUP to all workers, which read their token files
a second signal       ─► SIGKILL to all workers; exit code 1
the parent is killed  ─► each worker notices and drains
```

Workers are new processes, not forks, because gRPC does not survive a fork. Each watches the store by itself, so workers
swap bundles at different moments, like replicas behind one address. The client handles both the same way.
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

from retrieval.bundle.files import replace_text
from retrieval.serving.process.worker_link import LISTENING, VARIABLE, encode_settings
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.cores import THREAD_VARIABLES, library_threads

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""Run time, in seconds, after which a worker is started again after the shortest pause."""

_GRACE_S = 10.0
"""Time after the configured drain, in seconds, before a worker that has not ended is killed."""

_CANNOT_START = 2
"""Exit code of a worker that cannot use its settings."""

_log = structlog.get_logger("workers")


def reserve_port(host: str, port: int) -> list[socket.socket]:
    """Returns sockets that are bound to one port, one for each address of `host`, and that workers can share.

    The sockets never listen. Each is first bound without SO_REUSEPORT, which fails if another process listens on the
    port, even with SO_REUSEPORT. Only then is SO_REUSEPORT set, for the workers.

    Args:
        host: name or address.
        port: port to bind; 0 chooses a free port.

    Raises:
        ValueError: the port cannot be bound.
    """
    reserved: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            reserved.append(socket.socket(family, kind, protocol))
            # As servers do, so that connections of a former process in TIME_WAIT do not block the port.
            reserved[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                reserved[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen_port = reserved[0].getsockname()[1] if len(reserved) > 1 else port
            reserved[-1].bind((address[0], chosen_port, *address[2:]))
        for each in reserved:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        for each in reserved:
            each.close()
        raise ValueError(
            f"cannot listen on {host}:{port}: {error}; if another process listens there, choose another --port"
        ) from error
    return reserved


@dataclass
class _Worker:
    """One of the N workers, and the process that currently runs it.

    Attributes:
        number: number of the worker, 1 to N.
        settings: line of settings that is sent to each process of this worker.
        process: current process, or the last one.
        lifeline: parent's end of the connection to the process; None while no process runs.
        starts: number of processes started so far.
        started_at: time of the last start, in seconds of the monotonic clock.
        pause_s: pause before the next start, in seconds.
        due_at: time of the next start, in seconds of the monotonic clock; None if no start is due.
        listens: whether the process has said that it listens.
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
    """The worker processes of a service, as the parent process starts, watches and stops them.

    Call `run` once; it returns when all workers have ended.
    """

    def __init__(self, program: Sequence[str], config: ServerConfig) -> None:
        """Prepares the workers; `run` starts them.

        Args:
            program: command and arguments that start a process of the service.
            config: settings of the service; each worker gets a copy from `ServerConfig.for_worker`.
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
        """Starts the workers, keeps them running until a signal, and returns the exit code.

        Args:
            wakes: socket that gets the number of each signal to this process as one byte.

        Raises:
            ValueError: the port cannot be bound.
        """
        reserved = reserve_port(self._config.host, self._config.port)
        self._port = reserved[0].getsockname()[1]
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
                        self._act_on_signals(wakes.recv(64))
                    else:
                        self._read(key.data)
                self._act_when_due()
        finally:
            self._kill()
            for each in reserved:
                each.close()
        return self._code

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, VARIABLE: str(theirs.fileno())}
        for name in THREAD_VARIABLES:
            environment.setdefault(name, str(library_threads(self._count)))
        with theirs:
            # Its own process group, so that Ctrl-C reaches the parent alone, which passes it on once.
            worker.process = subprocess.Popen(
                self._program, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        ours.sendall(worker.settings)
        worker.lifeline, worker.listens, worker.due_at = ours, False, None
        worker.starts += 1
        worker.started_at = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, worker)
        _log.info("worker starts", worker=worker.number, pid=worker.process.pid, starts=worker.starts)

    def _read(self, worker: _Worker) -> None:
        if worker.lifeline is not None and _is_open(worker.lifeline):
            worker.listens = True
            if not self._announced and all(each.listens for each in self._workers):
                self._announce()
        else:
            self._end(worker)

    def _announce(self) -> None:
        self._announced = True
        if self._config.port_file is not None:
            replace_text(self._config.port_file, f"{self._port}\n")
        _log.info("workers listen", host=self._config.host, port=self._port, workers=self._count)

    def _end(self, worker: _Worker) -> None:
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
            # The worker has logged the reason. All workers have the same settings, so none could start.
            self._code = _CANNOT_START
            self._stop(1)
        else:
            if time.monotonic() - worker.started_at >= _STEADY_S:
                worker.pause_s = _FIRST_PAUSE_S
            _log.error("worker ended", worker=worker.number, exit_code=code, starts_again_in_s=worker.pause_s)
            worker.due_at = time.monotonic() + worker.pause_s
            worker.pause_s = min(2 * worker.pause_s, _LONGEST_PAUSE_S)

    def _act_on_signals(self, numbers: bytes) -> None:
        stops = [number for number in numbers if number != signal.SIGHUP]
        if len(stops) < len(numbers):
            for worker in self._workers:
                # A worker that does not listen yet has no handler for the signal, and is about to read the tokens.
                if worker.listens and worker.process is not None:
                    worker.process.send_signal(signal.SIGHUP)
        if stops:
            self._stop(len(stops))

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

    def _act_when_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.due_at is not None and worker.due_at <= now:
                self._start(worker)
        if self._stopping_since is not None and now >= self._drained_at():
            self._kill()


def _is_open(lifeline: socket.socket) -> bool:
    try:
        return bool(lifeline.recv(len(LISTENING)))
    except ConnectionError:  # the worker ended before it had read its settings
        return False
