"""The URL of a feature store, and its credentials.

Passwords are never in a URL: URLs are seen in process lists, logs and shell histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.credentials import CredentialProvider

_EXPECTED = "redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE (TLS) or unix:///PATH?db=DATABASE"
_TLS_OPTIONS = {"ca": "ssl_ca_certs", "certificate": "ssl_certfile", "key": "ssl_keyfile"}


@dataclass(frozen=True)
class Location:
    """Where a Redis server listens, and how to log in.

    Attributes:
        shown: URL for messages.
        options: Arguments of `redis.Redis` and of `redis.asyncio.Redis`.
    """

    shown: str
    options: Mapping[str, Any] = field(repr=False)


def parse_location(url: str, password_file: Path | None = None) -> Location:
    """Returns where a Redis server listens, and how to log in.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. A user name may be in it, a password not. A URL of TLS may have
            the options ``ca``, ``certificate`` and ``key``, which name PEM files.
        password_file: file that holds the password. It is read again for each connection, so a password can be changed
            without a restart.

    Raises:
        ValueError: the URL or the file cannot be used. The message never has a password.
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
    user = unquote(parts.username or "")
    if password_file is not None:
        credentials = _FileCredentials(user, password_file)
        credentials.get_credentials()
        options["credential_provider"] = credentials
    elif user:
        raise ValueError("the URL of the feature store names a user; name the file of its password too")
    return Location(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl(), options)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(f"the URL of the feature store names database {text[:80]!r}, expected a number; {_EXPECTED}")
    return int(text)


class _FileCredentials(CredentialProvider):
    """User name and password; the password is read from a file whenever it is needed."""

    def __init__(self, user: str, path: Path) -> None:
        self._user, self._path = user, path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Returns the password, with the user name before it if there is one.

        Raises:
            ValueError: the file cannot be read, or is empty.
        """
        try:
            password = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"features_password_file cannot be read: {error}") from error
        if not password:
            raise ValueError(f"features_password_file {self._path} is empty, expected a password")
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Returns what `get_credentials` does."""
        return self.get_credentials()
