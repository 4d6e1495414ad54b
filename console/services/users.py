"""A file of users to pick from in the playground: JSON Lines, ``{"user_id": "42", "features": {"age": 24}}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from console.settings import SettingsError
from two_tower_client.errors import TwoTowerError
from two_tower_client.features import to_query

USERS_MAX = 200_000
_LINE_MAX_BYTES = 1 << 20


class Users:
    """The users of a file, which stays where it is: only where each line begins is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Reads the file once.

        Raises:
            SettingsError: it cannot be read, a line is no user, or there are more than 200,000.
        """
        self._path = path
        self._starts: dict[str, int] = {}
        try:
            with path.open("rb") as file:
                number, start = 0, 0
                while line := file.readline(_LINE_MAX_BYTES + 1):
                    number += 1
                    if line.strip():
                        self._starts.setdefault(self._parse(line, number)[0], start)
                    if len(self._starts) > USERS_MAX:
                        raise SettingsError(f"--users {path} has more than {USERS_MAX:,} users: leave some out")
                    start = file.tell()
        except OSError as error:
            raise SettingsError(f"--users cannot be read: {error}") from error
        if not self._starts:
            raise SettingsError(f"--users {path} is empty, expected a user a line")

    def __len__(self) -> int:
        """Returns the number of users."""
        return len(self._starts)

    def first(self, count: int) -> list[str]:
        """Returns the ids of the first users."""
        return [user for user, _ in zip(self._starts, range(count), strict=False)]

    def find(self, user_id: str) -> dict[str, Any] | None:
        """Returns the features of a user; None if the file has no such user.

        Raises:
            SettingsError: the file has changed since it was read.
        """
        start = self._starts.get(user_id)
        if start is None:
            return None
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                found, features = self._parse(file.readline(_LINE_MAX_BYTES + 1), 0)
        except OSError as error:
            raise SettingsError(f"--users cannot be read: {error}") from error
        if found != user_id:
            raise SettingsError(f"--users {self._path} has changed: start the console again")
        return features

    def _parse(self, line: bytes, number: int) -> tuple[str, dict[str, Any]]:
        where = f"--users {self._path}, line {number}" if number else f"--users {self._path}, which has changed"
        try:
            if len(line) > _LINE_MAX_BYTES:
                raise ValueError(f"it has more than {_LINE_MAX_BYTES:,} bytes")
            user = json.loads(line)
            user_id, features = user["user_id"], user["features"]
            if not isinstance(user_id, str) or not user_id:
                raise ValueError("user_id is no text")
            to_query(features)
        except (ValueError, KeyError, TypeError, RecursionError, TwoTowerError) as error:
            raise SettingsError(
                f'{where}: expected {{"user_id": "42", "features": {{"age": 24}}}}; {type(error).__name__}: {error}'
            ) from error
        return user_id, features
