"""Listens, and runs the application until the process is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path
from types import FrameType

import uvicorn

from console.app import make_app
from console.settings import Settings, SettingsError
from console.state import Console

_CONNECTIONS_MAX = 64
"""Most connections at once: some browsers with several tabs each."""

_HEADERS_MAX_BYTES = 32 << 10

_log = logging.getLogger("console")


def serve(settings: Settings, port_file: Path | None = None) -> int:
    """Serves the console until a signal ends it.

    Args:
        settings: Settings of the console.
        port_file: File to write the port to, once it listens. Default: none.

    Raises:
        SettingsError: The address cannot be listened on, or a file cannot be read.
        BundleError: The store cannot be opened.
        TwoTowerError: An address of the services or their token file is invalid.
        KeyboardInterrupt: SIGINT ended it.
        SystemExit: SIGTERM ended it, with code 0.
    """
    with Console(settings) as console, _listen(settings) as listener:
        port = listener.getsockname()[1]
        scheme = "https" if settings.certificate else "http"
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        _log.info("console of %s on %s://%s:%d/", settings.store, scheme, shown, port)
        if port_file is not None:
            written = port_file.with_name(f"{port_file.name}.tmp")  # so that nobody reads an empty file
            written.write_text(f"{port}\n", encoding="utf-8")
            written.replace(port_file)
        # The server ends its requests after a signal, and then raises it again for whoever handled it before.
        before = signal.signal(signal.SIGTERM, _exit)
        try:
            asyncio.run(make_server(console).serve([listener]))
        finally:
            signal.signal(signal.SIGTERM, before)
    return 0


def make_server(console: Console) -> uvicorn.Server:
    """Returns the HTTP server of a console."""
    settings = console.settings
    config = uvicorn.Config(
        make_app(console),
        log_level="warning",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=_CONNECTIONS_MAX,
        h11_max_incomplete_event_size=_HEADERS_MAX_BYTES,
        http="h11",
        timeout_keep_alive=10,
        timeout_graceful_shutdown=3,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    return uvicorn.Server(config)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(settings: Settings) -> socket.socket:
    """Returns the listening socket, or raises SettingsError."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_CONNECTIONS_MAX)
    except OSError as error:
        raise SettingsError(f"cannot listen on {settings.host}, port {settings.port}: {error}") from error
