"""Commands for Redis, and what its replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from retrieval.live_features.errors import FeatureStoreError, StoreFull, StoreUnavailable
from retrieval.live_features.scripts import Script


@dataclass(frozen=True, slots=True)
class Command:
    """A script, with the keys of one user and arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int | float] = ()

    def words(self, *, by_hash: bool = True) -> tuple[Any, ...]:
        """Returns the words of the command.

        Args:
            by_hash: whether the script is named by its hash, which Redis forgets when it is started anew.
        """
        name, script = ("EVALSHA", self.script.sha) if by_hash else ("EVAL", self.script.text)
        return (name, script, len(self.keys), *self.keys, *self.arguments)


def is_unknown_script(reply: Any) -> bool:
    """Returns whether a command has to be sent again with the text of its script."""
    return isinstance(reply, NoScriptError)


def is_of_one_record(reply: Any) -> bool:
    """Returns whether a reply is an error that concerns the keys of one user alone."""
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def to_error(error: RedisError | OSError) -> FeatureStoreError:
    """Returns the error of this package for one of Redis, without values that a caller sent.

    Args:
        error: error reply, or failure of a connection.
    """
    if isinstance(error, OutOfMemoryError) or "OOM command" in str(error):
        return StoreFull(
            "the feature store is full: its memory has reached maxmemory; give it more, or lower max_events "
            "or keep_days"
        )
    if isinstance(error, NoAnswer | TimeoutError):
        return StoreUnavailable("the feature store did not answer in time")
    if isinstance(error, NoConnection | OSError):
        return StoreUnavailable(f"the feature store cannot be reached: {str(error)[:300]}")
    return StoreUnavailable(f"the feature store refused a command: {str(error)[:300]}")
