"""Writes many users to a feature store, for instance from tables."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from retrieval.live_features.codec import encode_event, encode_profile, keys_of
from retrieval.live_features.credentials import client_options
from retrieval.live_features.errors import FeatureStoreError, UnreadableRecord
from retrieval.live_features.location import parse_location
from retrieval.live_features.records import Appended, Event, StoreLimits, id_fault
from retrieval.live_features.replies import Command, is_of_one_record, is_unknown_script, to_error
from retrieval.live_features.scripts import WRITE

_EVENTS_A_COMMAND = 1000
_BUFFERED_CHARACTERS = 1 << 20
_BUFFERED_COMMANDS = 500
"""Size of what is written at once: some milliseconds of Redis' time, in which it answers nobody else."""

_TIMEOUT_S = 30.0
_RETRIES = 3


class BulkWriter:
    """Writes profiles and events in batches. Not safe for several threads.

    Writing the same again changes nothing, so what was interrupted can be started anew:

    ```python
    with BulkWriter("redis://localhost:6379/0", StoreLimits()) as writer:
        writer.put("42", {"age": [24.0]}, [Event("1", "42", "50", 891_000_000.0)])
    print(writer.written)
    ```
    """

    def __init__(self, url: str, limits: StoreLimits, password_file: Path | None = None) -> None:
        """Connects to the store.

        Args:
            url: URL of the store; see `retrieval.live_features.location`.
            limits: limits of what is stored of a user.
            password_file: file that holds the password; None: no password.

        Raises:
            ValueError: the URL or the password file cannot be used.
            FeatureStoreError: the store cannot be reached.
        """
        options = client_options(parse_location(url), password_file)
        self._limits = limits
        self._redis = redis.Redis(
            **options,
            protocol=2,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), _RETRIES),
        )
        self._commands: list[Command] = []
        self._characters = 0
        self._written = Appended()
        try:
            self._redis.ping()
        except (redis.RedisError, OSError) as error:
            self._redis.close()
            raise to_error(error) from error

    @property
    def written(self) -> Appended:
        """What became of the events that were written so far, without those that are buffered."""
        return self._written

    def put(self, user_id: str, profile: Mapping[str, Sequence[Any]], events: Sequence[Event]) -> None:
        """Replaces the profile of a user, and adds events.

        Args:
            user_id: id of the user.
            profile: raw values by feature name, always in a list. Empty: the stored profile stays as it is.
            events: events of this user, in any order.

        Raises:
            ValueError: an id or a value cannot be stored.
            FeatureStoreError: the store is full or away. What was written so far stays.
        """
        if fault := id_fault(user_id):
            raise ValueError(f"user_id: {fault}")
        for event in events:
            if event.user_id != user_id:
                raise ValueError(f"an event of user {event.user_id[:80]!r} is among those of user {user_id[:80]!r}")
            for field, fault in event.faults():
                raise ValueError(f"user {user_id[:80]!r}, event {event.event_id[:80]!r}: {field}: {fault}")
        excess = len(events) - self._limits.max_events
        if excess > 0:
            events = heapq.nlargest(self._limits.max_events, events, key=lambda event: (event.time_s, event.event_id))
            self._written += Appended(too_old=excess)
        keys = keys_of(self._limits.prefix, user_id)
        encoded = encode_profile(profile)
        for first in range(0, max(1, len(events)), _EVENTS_A_COMMAND):
            arguments: list[str | int | float] = [self._limits.max_events, self._limits.keep_ms, len(encoded) // 2]
            arguments += encoded
            for event in events[first : first + _EVENTS_A_COMMAND]:
                arguments += [event.event_id, repr(float(event.time_s)), encode_event(event)]
            self._add(Command(WRITE, keys, arguments))
            encoded = []

    def flush(self) -> None:
        """Writes what is buffered.

        Raises:
            FeatureStoreError: the store is full or away.
        """
        commands, self._commands, self._characters = self._commands, [], 0
        for reply in self._execute(commands):
            self._written += Appended(*map(int, reply))

    def close(self) -> None:
        """Writes what is buffered, and closes the connection.

        Raises:
            FeatureStoreError: the store is full or away.
        """
        try:
            self.flush()
        finally:
            self._redis.close()

    def __enter__(self) -> Self:
        """Returns this writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes this writer; after an error, without writing what is buffered."""
        if error is None:
            self.close()
        else:
            self._redis.close()

    def _add(self, command: Command) -> None:
        self._commands.append(command)
        self._characters += sum(len(str(argument)) for argument in command.arguments)
        if len(self._commands) >= _BUFFERED_COMMANDS or self._characters >= _BUFFERED_CHARACTERS:
            self.flush()

    def _execute(self, commands: Sequence[Command], *, by_hash: bool = True) -> list[Any]:
        """Returns the reply to each command."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command.words(by_hash=by_hash))
        try:
            replies = list(pipeline.execute(raise_on_error=False))
        except (redis.RedisError, OSError) as error:
            raise to_error(error) from error
        unknown = [number for number, reply in enumerate(replies) if is_unknown_script(reply)]
        if unknown and by_hash:
            again = self._execute([commands[number] for number in unknown], by_hash=False)
            for number, reply in zip(unknown, again, strict=True):
                replies[number] = reply
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, redis.RedisError):
                raise self._error_of(command, reply) from reply
        return replies

    def _error_of(self, command: Command, reply: redis.RedisError) -> FeatureStoreError:
        if is_of_one_record(reply):
            return UnreadableRecord(f"{command.keys[0]!r}: {reply}; what is there was not written by this program")
        return to_error(reply)
