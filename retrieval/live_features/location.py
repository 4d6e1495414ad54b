"""The URL of a feature store. This module needs no redis.

Passwords are never in a URL: URLs are seen in process lists, logs and shell histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_EXPECTED = "redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE (TLS) or unix:///PATH?db=DATABASE"
_TLS_OPTIONS = {"ca": "ssl_ca_certs", "certificate": "ssl_certfile", "key": "ssl_keyfile"}


@dataclass(frozen=True)
class Location:
    """Where a Redis server listens, and how to log in.

    Attributes:
        shown: URL for messages.
        user: Name of the user; empty: the default one.
        options: Arguments of `redis.Redis` and of `redis.asyncio.Redis`, without those to log in.
    """

    shown: str
    user: str
    options: Mapping[str, Any]


def parse_location(url: str) -> Location:
    """Returns where a Redis server listens.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. A user name may be in it, a password not. A URL of TLS may have
            the options ``ca``, ``certificate`` and ``key``, which name PEM files.

    Raises:
        ValueError: the URL cannot be used. The message never has a password.
    """
    try:
        parts = urlsplit(url)
        port, query = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ValueError(f"the URL of the feature store cannot be read; expected {_EXPECTED}") from error
    if parts.password is not None or "password" in query:
        raise ValueError(
            "the URL of the feature store has a password, which others see in the list of processes; write it to a "
            "file that only this user may read, and name that with features_password_file"
        )
    options: dict[str, Any] = {}
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.hostname:
        options["unix_socket_path"] = unquote(parts.path)
        options["db"] = _database(query.pop("db", ["0"])[0])
    elif parts.scheme in ("redis", "rediss") and parts.hostname:
        options |= {"host": parts.hostname, "port": port or 6379, "db": _database(parts.path.strip("/") or "0")}
        if parts.scheme == "rediss":
            options["ssl"] = True
            options |= {_TLS_OPTIONS[name]: query.pop(name)[0] for name in list(query) if name in _TLS_OPTIONS}
    else:
        raise ValueError(f"the feature store is at a URL of scheme {parts.scheme!r}, expected {_EXPECTED}")
    if query:
        raise ValueError(f"the URL of the feature store has the option {sorted(query)[0]!r}; expected {_EXPECTED}")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    return Location(shown, unquote(parts.username or ""), options)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(f"the URL of the feature store names database {text[:80]!r}, expected a number; {_EXPECTED}")
    return int(text)
