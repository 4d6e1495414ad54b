"""Reads the TLS certificates and the bearer token."""

from __future__ import annotations

from pathlib import Path

import grpc

from retrieval.serving.runtime.config import ServerConfig


def read_token(path: Path | None) -> str | None:
    """Returns the bearer token that calls have to carry; None if `path` is None.

    Raises:
        ValueError: the file cannot be read, is empty or is not ASCII.
    """
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"token_file cannot be read: {error}") from error
    if not token:
        raise ValueError(f"token_file {path} is empty, expected one token")
    return token


def read_tls(config: ServerConfig) -> grpc.ServerCredentials | None:
    """Returns the TLS credentials of the server; None if no certificate is configured.

    Raises:
        ValueError: a file cannot be read.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    try:
        pair = (config.tls_key.read_bytes(), config.tls_certificate.read_bytes())
        client_ca = config.tls_client_ca.read_bytes() if config.tls_client_ca else None
    except OSError as error:
        raise ValueError(f"TLS files cannot be read: {error}") from error
    return grpc.ssl_server_credentials([pair], root_certificates=client_ca, require_client_auth=client_ca is not None)
