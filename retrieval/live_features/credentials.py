"""How to log in to a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.credentials import CredentialProvider

from retrieval.live_features.location import Location


def client_options(location: Location, password_file: Path | None) -> dict[str, Any]:
    """Returns the arguments of `redis.Redis` and of `redis.asyncio.Redis`.

    Args:
        location: where the server listens.
        password_file: file that holds the password; None: no password. It is read again for each connection, so a
            password can be changed without a restart.

    Raises:
        ValueError: the file cannot be used, or the URL names a user and there is no file.
    """
    options = dict(location.options)
    if password_file is not None:
        credentials = _FileCredentials(location.user, password_file)
        credentials.get_credentials()
        options["credential_provider"] = credentials
    elif location.user:
        raise ValueError(
            "the URL of the feature store names a user; name the file of its password with features_password_file"
        )
    return options


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
