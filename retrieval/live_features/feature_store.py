"""Reads and writes the stored features of users, from an event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.live_features.codec import StoredRecord, encode_event, keys_of
from retrieval.live_features.credentials import client_options
from retrieval.live_features.errors import FeatureStoreError, UnreadableRecord
from retrieval.live_features.location import parse_location
from retrieval.live_features.pipelines import Pipelines
from retrieval.live_features.records import (
    MAX_PROFILE_FEATURES,
    MAX_RECORD_BYTES,
    Appended,
    Event,
    Forgotten,
    StoreLimits,
)
from retrieval.live_features.replies import Command
from retrieval.live_features.scripts import FORGET, READ, WRITE

_READS_A_TURN = 8
_WRITES_A_TURN = 64
"""Number of users of one call that are read, or written, before other calls have their turn.

A read of 1,000 events takes Redis about a millisecond, and others wait at most 50 for theirs.
"""

_EVENTS_A_STEP = 100
"""Number of events that are encoded before other work of the event loop has its turn: about a millisecond."""


@dataclass(frozen=True)
class StoreSettings:
    """Where a feature store is, and how long it may take.

    Attributes:
        url: URL of the store; see `retrieval.live_features.location`.
        password_file: File that holds the password; None: no password.
        limits: Limits of what is stored of a user.
        read_timeout_s: Longest time of a read, in seconds.
        write_timeout_s: Longest time of a write, in seconds.
    """

    url: str
    password_file: Path | None = None
    limits: StoreLimits = field(default_factory=StoreLimits)
    read_timeout_s: float = 0.05
    write_timeout_s: float = 0.5


class FeatureStore:
    """The stored features of users. Used by one event loop.

    Attributes:
        shown: URL for messages.

    Reads and writes have a circuit each: a store that is full answers reads, and one that is slow to write may be quick
    to read.
    """

    def __init__(self, settings: StoreSettings) -> None:
        """Prepares the connections; they are made when they are needed, so the store may be away.

        Raises:
            ValueError: the URL or the password file cannot be used.
        """
        location = parse_location(settings.url)
        options = client_options(location, settings.password_file)
        self.shown = location.shown
        self._limits = settings.limits
        self._reads = Pipelines(options, settings.read_timeout_s, _READS_A_TURN)
        self._writes = Pipelines(options, settings.write_timeout_s, _WRITES_A_TURN)

    @property
    def read_circuit(self) -> int:
        """State of the circuit of reads; see `retrieval.live_features.circuit`."""
        return self._reads.circuit.state

    @property
    def write_circuit(self) -> int:
        """State of the circuit of writes."""
        return self._writes.circuit.state

    async def read(self, user_ids: Sequence[str], newest: int, within_s: float = math.inf) -> list[StoredRecord | None]:
        """Returns the record of each user; None where the store did not answer in time, if it did for other users.

        Records are not decoded, so that the event loop can go on with other work.

        Args:
            user_ids: ids of users.
            newest: largest number of events of each, the newest ones; at least 0. Of large events, fewer are read: at
                most `retrieval.live_features.records.MAX_RECORD_BYTES`.
            within_s: time that the caller allows, in seconds.

        Raises:
            StoreUnavailable: the store did not answer for any user in time, cannot be reached, or the circuit is open.
        """
        commands = [
            Command(READ, keys_of(self._limits.prefix, user_id), (newest, MAX_RECORD_BYTES, MAX_PROFILE_FEATURES))
            for user_id in user_ids
        ]
        replies = await self._reads.run(commands, within_s)
        return [_to_record(reply) for reply in replies]

    async def append(self, events: Sequence[Event], within_s: float = math.inf) -> Appended:
        """Adds events of one or several users; all events of a user, or none.

        Args:
            events: events without faults (`retrieval.live_features.records.Event.faults`).
            within_s: time that the caller allows, in seconds.

        Raises:
            FeatureStoreError: the store is full or away, or the keys of a user hold what this package did not write.
                Some events may have been added. A retry is safe.
        """
        of_users: dict[str, list[str | int | float]] = {}
        for number, event in enumerate(events, 1):
            if number % _EVENTS_A_STEP == 0:
                await asyncio.sleep(0)
            arguments = of_users.setdefault(event.user_id, [self._limits.max_events, self._limits.keep_ms, 0])
            arguments += [event.event_id, repr(float(event.time_s)), encode_event(event)]
        commands = [Command(WRITE, keys_of(self._limits.prefix, user), words) for user, words in of_users.items()]
        written = Appended()
        for reply in await self._writes.run(commands, within_s):
            if isinstance(reply, FeatureStoreError):
                raise reply
            if isinstance(reply, Exception):
                raise UnreadableRecord(f"the keys of a user are not of this program: {reply}") from reply
            written += Appended(*map(int, reply))
        return written

    async def forget(self, user_id: str, within_s: float = math.inf) -> Forgotten:
        """Deletes everything that is stored of a user.

        Args:
            user_id: id of the user.
            within_s: time that the caller allows, in seconds.

        Raises:
            FeatureStoreError: the store is away. A retry is safe.
        """
        (reply,) = await self._writes.run([Command(FORGET, keys_of(self._limits.prefix, user_id))], within_s)
        return Forgotten(*map(int, reply))

    async def close(self) -> None:
        """Closes the connections."""
        await self._reads.close()
        await self._writes.close()


def _to_record(reply: Any) -> StoredRecord | None:
    if isinstance(reply, FeatureStoreError):
        return None
    return StoredRecord(fault=str(reply)[:300]) if isinstance(reply, Exception) else StoredRecord(*reply)
