"""The command line of a service: settings from flags, environment and a file; signals; exit codes.

A flag overrides the environment, which overrides the file of ``--config``, which overrides the default of a setting.
Exit codes: 0 after a drain; 1 after a second signal, or if a worker did not drain; 2 for settings that cannot be used.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
from cyclopts import App, Parameter
from cyclopts.config import Env, Toml

from retrieval.bundle.errors import StoreError
from retrieval.bundle.files import replace_text
from retrieval.serving.process.worker_link import Lifeline
from retrieval.serving.process.workers import Workers
from retrieval.serving.rpc.server import Server
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.cores import pin
from retrieval.serving.runtime.logs import configure_logs, finish_logs
from retrieval.serving.runtime.memory import limit_arenas
from retrieval.version import version

C = TypeVar("C", bound=ServerConfig)

_SWITCH_INTERVAL_S = 0.002

_LAST_SECONDS = 8.0
"""Time beyond the drain, in seconds, after which the process ends whatever hangs; logs are written in it."""

_INTERNAL = "worker"
"""Field of `ServerConfig` that is not offered as a setting: the parent sets it for each worker."""

_log = structlog.get_logger("program")


def run_program(
    name: str, help_text: str, config_class: type[C], assemble: Callable[[C], Server], arguments: Sequence[str]
) -> int:
    """Runs a service until a signal stops it, and ends the process. Returns only if no service was started.

    Args:
        name: package name; workers are started with ``python -m NAME``, and environment variables have it as prefix.
        help_text: description of the service.
        config_class: frozen dataclass whose fields are the settings.
        assemble: builds the server from the settings.
        arguments: arguments of the command line.

    Returns:
        Exit code: 0 for ``--help`` and ``--version``, 2 for settings that cannot be used.
    """
    lifeline = Lifeline.inherited()
    if lifeline is not None:
        return _run_worker(name, config_class, assemble, lifeline)
    prefix = f"{name.upper()}_"
    env = Env(prefix)
    app = App(name=_command(name), help=help_text, version=version(), config=[env], result_action="return_value")

    def start(config: Any) -> NoReturn:
        if config.worker_count > 1:
            _supervise(name, config)
        _serve(assemble(config), config)

    # The type is known only here, so it cannot be written in the signature.
    settings = Parameter(name="*", parse=re.compile(rf"^(?!{_INTERNAL}$)"))
    start.__annotations__["config"] = Annotated[config_class, settings]
    app.default(start)

    def configured(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[Path | None, Parameter(help="TOML file of settings, such as: threads = 2.")] = None,
    ) -> Any:
        if config is not None:
            app.config = [env, Toml(config, must_exist=True)]
        return app(tokens)

    app.meta.default(configured)
    try:
        _check_environment(prefix, config_class)
        result = app.meta(list(arguments))
    except (ValueError, OSError, StoreError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


def _command(name: str) -> str:
    """Returns the command that started this process, for the help text."""
    program = Path(sys.argv[0])
    return f"python -m {name}" if program.suffix == ".py" else program.name


def _worker_command(name: str) -> list[str]:
    """Returns the command that starts a worker, which imports the same modules as this process.

    ``python -m`` searches the current folder before the installed packages, an installed command does not. Without -P,
    a module of a user's folder could take the place of one of ours in the workers alone.
    """
    safe_path = [] if sys.path[0] == os.getcwd() else ["-P"]
    return [sys.executable, *safe_path, "-m", name]


def _check_environment(prefix: str, config_class: type[ServerConfig]) -> None:
    names = {field.name for field in dataclasses.fields(config_class)} - {_INTERNAL} | {"config"}
    known = {f"{prefix}{name.upper()}" for name in names}
    unknown = sorted(key for key in os.environ if key.startswith(prefix) and key not in known)
    if unknown:
        raise ValueError(f"environment: no setting is named {', '.join(unknown)}; see --help")


def _run_worker(name: str, config_class: type[C], assemble: Callable[[C], Server], lifeline: Lifeline) -> int:
    config = lifeline.read_settings(config_class)
    if config.pins:
        pin(config.worker)
    try:
        _serve(assemble(config), config, lifeline)
    except (ValueError, OSError, StoreError) as error:
        print(f"{name}: worker {config.worker}: {error}", file=sys.stderr)
        return 2


def _supervise(name: str, config: ServerConfig) -> NoReturn:
    _log_settings(config)
    wakes = _watch_signals(second_exits=False)
    code = Workers(_worker_command(name), config).run(wakes)
    _log.info("stopped", exit_code=code)
    sys.exit(code)


def _serve(server: Server, config: ServerConfig, lifeline: Lifeline | None = None) -> NoReturn:
    _log_settings(config)
    # The thread that receives waits at most so long for the interpreter while others compute. Of 0.05, 0.5, 2 and 5 ms,
    # the default, 2 gave the most answers under overload: below it, threads take turns more than they work.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    limit_arenas()
    wakes = _watch_signals(second_exits=True)
    if lifeline is not None:
        lifeline.watch()
        if _is_stopped_before_settled(server, wakes):
            finish_logs()
            os._exit(0)
    port = server.start()
    if config.port_file is not None:
        replace_text(config.port_file, f"{port}\n")
    if lifeline is not None:
        lifeline.say_listening()
    while _received(wakes, server.reload):
        pass
    # Whatever hangs, the process ends.
    seconds = config.drain_delay_s + config.drain_timeout_s + _LAST_SECONDS
    last = threading.Timer(seconds, os._exit, (0,))
    last.daemon = True
    last.start()
    server.drain()
    finish_logs()
    # Not sys.exit: a bundle may still be loading in native code, and the interpreter would abort on such a thread.
    os._exit(0)


def _received(wakes: socket.socket, reload: Callable[[], None]) -> bool:
    """Waits for a signal; returns True after SIGHUP, for which it calls `reload`, and False after any other."""
    if wakes.recv(1)[0] != signal.SIGHUP:
        return False
    reload()
    return True


def _is_stopped_before_settled(server: Server, wakes: socket.socket) -> bool:
    """Waits until the server has a bundle or knows why it has none; returns whether a signal came before that.

    A worker does not listen before that moment. Otherwise the kernel would give it connections that it can only refuse,
    while other workers could answer them.
    """
    server.watch_store()
    while not server.is_settled:
        if select.select([wakes], [], [], 0.02)[0] and not _received(wakes, server.reload):
            return True
    return False


def _log_settings(config: ServerConfig) -> None:
    configure_logs(config.log_level, config.worker)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(config).items()}
    _log.info("settings", **settings)


def _watch_signals(*, second_exits: bool) -> socket.socket:
    """Returns a socket that gets the number of each SIGTERM, SIGINT and SIGHUP as one byte.

    Args:
        second_exits: whether a second SIGTERM or SIGINT ends the process at once.
    """
    # A byte on a socket wakes the main thread whichever thread gets the signal. A threading.Event could miss a signal
    # that arrives just as the wait begins.
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.detach())
    received = itertools.count()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if next(received) and second_exits:
            os._exit(1)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, lambda number, frame: None)  # without a handler, it would end the process
    return wakes
