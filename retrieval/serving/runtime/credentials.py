"""Bearer tokens and TLS certificates. Both are read again when their files change, so they rotate without a restart."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.metrics import Metrics

READ, WRITE, ADMIN = "read", "write", "admin"
SCOPES = (READ, WRITE, ADMIN)

_SCHEME = "bearer "

_log = structlog.get_logger("credentials")


@dataclass(frozen=True)
class Identity:
    """Whom a token stands for.

    Attributes:
        name: Name beside the token in the token file; empty if it has none, or no token is needed.
        scopes: Scopes of the token.
    """

    name: str = ""
    scopes: frozenset[str] = frozenset(SCOPES)


ANYBODY = Identity()
"""The identity of a caller where no token is needed."""


class Tokens:
    """The tokens that calls may carry. Only their hashes are kept.

    The file has one token a line, and optionally a name and scopes: ``TOKEN [NAME [read,write,admin]]``. Without
    scopes, a token has all. Empty lines, and lines that begin with ``#``, are ignored.
    """

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Reads the file.

        Args:
            path: token file; None: no token is needed.
            metrics: receives the reloads.

        Raises:
            ValueError: the file cannot be read, has no token, or a line is malformed.
        """
        self._path = path
        self._reloads = metrics.credential_reloads
        self._changed_at = _changed_at(path)
        self._by_hash = {} if path is None else _read_tokens(path)

    def identify(self, authorization: str | bytes) -> Identity | None:
        """Returns whom a call comes from; None if its token is missing or wrong.

        Args:
            authorization: value of the metadata ``authorization``; empty if the call has none.
        """
        if self._path is None:
            return ANYBODY
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
        if text[: len(_SCHEME)].lower() != _SCHEME:
            return None
        # The hash is looked up, not the token, so the time of the lookup tells nothing about a token.
        return self._by_hash.get(_hash(text[len(_SCHEME) :].strip()))

    def reload(self) -> None:
        """Reads the file again if it has changed. Keeps the tokens if it cannot be read, and logs why."""
        changed_at = _changed_at(self._path)
        if self._path is None or changed_at == self._changed_at:
            return
        self._changed_at = changed_at
        try:
            self._by_hash = _read_tokens(self._path)
            self._reloads.labels("tokens", "ok").inc()
            _log.info("tokens reloaded", tokens=len(self._by_hash))
        except ValueError as error:
            self._reloads.labels("tokens", "failed").inc()
            _log.error("tokens not reloaded; those from before stay valid", error=str(error))


def _read_tokens(path: Path) -> dict[bytes, Identity]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"token_file cannot be read: {error}") from error
    by_hash: dict[bytes, Identity] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        scopes = frozenset(words[2].split(",")) if len(words) > 2 else frozenset(SCOPES)
        if len(words) > 3 or not scopes <= set(SCOPES):
            raise ValueError(f"token_file {path}, line {number}: expected 'TOKEN [NAME [read,write,admin]]'")
        by_hash[_hash(words[0])] = Identity(words[1] if len(words) > 1 else "", scopes)
    if not by_hash:
        raise ValueError(f"token_file {path} is empty, expected a token")
    return by_hash


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tls(config: ServerConfig, metrics: Metrics) -> grpc.ServerCredentials | None:
    """Returns the TLS credentials of the server; None if no certificate is configured.

    The files are looked at again for each new connection. New ones that cannot be used are logged, and the certificate
    from before stays.

    Args:
        config: settings that name the files.
        metrics: receives the reloads.

    Raises:
        ValueError: a file cannot be read, or the key is not that of the certificate.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    certificates = _Certificates(config.tls_certificate, config.tls_key, config.tls_client_ca, metrics)
    return grpc.dynamic_ssl_server_credentials(
        certificates.read(),
        certificates.read_if_changed,  # pyright: ignore[reportArgumentType]  # None: unchanged
        require_client_authentication=config.tls_client_ca is not None,
    )


class _Certificates:
    """The certificate, key and client authorities of a server, as files."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, metrics: Metrics) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._reloads = metrics.credential_reloads
        self._changed_at = self._all_changed_at()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Returns what the files contain.

        Raises:
            ValueError: a file cannot be read or has no certificate, or the key is not that of the certificate.
        """
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key, password=_no_password)
            pair = (self._key.read_bytes(), self._certificate.read_bytes())
        except ssl.SSLError as error:
            raise ValueError(
                f"tls_certificate {self._certificate} and tls_key {self._key} cannot be used together: {error.reason}; "
                "name a PEM certificate chain and the PEM key that it was made with, without a password"
            ) from error
        except OSError as error:
            raise ValueError(f"TLS files cannot be read: {error}") from error
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self._read_client_ca())

    def _read_client_ca(self) -> bytes | None:
        if self._client_ca is None:
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self._client_ca)
            return self._client_ca.read_bytes()
        except ssl.SSLError as error:
            raise ValueError(
                f"tls_client_ca {self._client_ca} cannot be used: {error.reason}; name a PEM file of certificates"
            ) from error
        except OSError as error:
            raise ValueError(f"TLS files cannot be read: {error}") from error

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files contain if they have changed and can be used, otherwise None. gRPC calls this."""
        changed_at = self._all_changed_at()
        if changed_at == self._changed_at:
            return None
        self._changed_at = changed_at
        try:
            configuration = self.read()
        except ValueError as error:
            self._reloads.labels("certificate", "failed").inc()
            _log.error("certificate not reloaded; the one from before stays", error=str(error))
            return None
        self._reloads.labels("certificate", "ok").inc()
        _log.info("certificate reloaded")
        return configuration

    def _all_changed_at(self) -> Sequence[tuple[int, int] | None]:
        return [_changed_at(path) for path in (self._certificate, self._key, self._client_ca)]


_no_password: Callable[[], str] = lambda: ""  # noqa: E731  # without it, OpenSSL would ask on the terminal


def _changed_at(path: Path | None) -> tuple[int, int] | None:
    """Returns what changes with a file: time of change in nanoseconds and inode; None if there is no file."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_ino)
