"""Writes events while Redis and the replicas are killed, and compares what is stored with what was written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.attack.rows import Row
from benchmarks.services.live_features.world import World, to_event
from benchmarks.services.live_features.writers import Written, write
from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import StoreLimits
from two_tower.query.v1 import query_tower_service_pb2 as pb

_BATCH = 100
_WRITERS = 4
_DOWN_S = 0.3
_LONGEST_S = 300.0
"""Longest wait for a process to start again on a machine that other work keeps busy, in seconds."""
_USERS_AT_ONCE = 200
_NAME = "kills"


class Kills:
    """Kills Redis and the replicas in turns with SIGKILL, and starts each again, while events are written.

    Kill n begins when share (n + 1) / (count + 1) of the batches was taken, and the batches of the next share are not
    given out before it is over.

    Attributes:
        redis: Number of kills of Redis so far.
        replicas: Number of kills of a replica so far.
    """

    def __init__(self, world: World, count: int, batch_count: int) -> None:
        self.redis = self.replicas = 0
        self._world = world
        self._starts = [(number + 1) * batch_count // (count + 1) for number in range(count)]
        self._taken, self._has_ended = 0, False
        self._changed = threading.Condition()

    def run(self) -> None:
        """Kills until all kills are done, or `end` was called."""
        for start in self._starts:
            with self._changed:
                self._wait(lambda start=start: self._taken >= start or self._has_ended)
                if self._has_ended:
                    return
            self._kill()
            with self._changed:
                self._changed.notify_all()

    def end(self) -> None:
        """Lets `run` return after the kill that is under way."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def take(self, number: int) -> None:
        """Waits until batch `number` may be sent."""
        with self._changed:
            self._taken = number
            self._changed.notify_all()
            begun = sum(start <= number for start in self._starts)
            self._wait(lambda: self.redis + self.replicas >= begun - 1)

    def _wait(self, condition: Callable[[], bool]) -> None:
        if not self._changed.wait_for(condition, _LONGEST_S):
            raise RuntimeError(f"waited {_LONGEST_S:.0f} s for a process to start again, or for a batch to be written")

    def _kill(self) -> None:
        if self.redis <= self.replicas:
            self._world.redis.kill()
            time.sleep(_DOWN_S)
            self._world.redis.start()
            self.redis += 1
        else:
            replica = self._world.replicas[self.replicas % 2]
            replica.kill()
            replica.start()
            replica.wait_until_serving()
            self.replicas += 1


@dataclass
class Found:
    """What is stored, beside what was written.

    Attributes:
        lost: Events that are not there.
        doubled: Events that are there more than once, or that nobody wrote.
        misplaced: Users whose events are not in the order of their times.
    """

    lost: int = 0
    doubled: int = 0
    misplaced: int = 0


def judge(world: World, event_count: int, user_count: int, kill_count: int, seed: int = 1) -> Iterator[Row]:
    """Yields the rows of events that are written in random order, by writers that retry, under kills.

    Args:
        world: Redis that answers a write only when it is on disk, and replicas.
        event_count: Number of events, a multiple of `user_count`.
        user_count: Number of users.
        kill_count: Number of kills.
        seed: Seed of the order.
    """
    order = np.random.default_rng(seed).permutation(event_count)
    kills = Kills(world, kill_count, -(-event_count // _BATCH))
    with ThreadPoolExecutor(1, "kills") as thread:
        killing = thread.submit(kills.run)
        try:
            written = write(world, _batches(order, user_count, kills), _WRITERS)
        finally:
            kills.end()
        killing.result()
    found = asyncio.run(_compare(world, event_count, user_count))
    note = f"{event_count:,} events of {user_count:,} users, in random order, in batches of {_BATCH}"
    yield Row(_NAME, "events lost", found.lost, 0, "", note=note)
    yield Row(_NAME, "events doubled", found.doubled, 0, "", note=_describe(written))
    yield Row(_NAME, "users with events out of order", found.misplaced, 0, "")
    yield Row(_NAME, "kills of Redis", kills.redis, kill_count // 2, "", is_floor=True, note="appendfsync always")
    yield Row(_NAME, "kills of a replica", kills.replicas, kill_count // 2, "", is_floor=True)


def _describe(written: Written) -> str:
    retries = ", ".join(f"{count} {code}" for code, count in written.retries.most_common()) or "none"
    return f"{written.already_there:,} were there when they were sent again; calls sent again: {retries}"


def _batches(order: np.ndarray, user_count: int, kills: Kills) -> Iterator[pb.RecordEventsRequest]:
    for position, start in enumerate(range(0, len(order), _BATCH)):
        kills.take(position)
        numbers = order[start : start + _BATCH].tolist()
        yield pb.RecordEventsRequest(
            events=[to_event(f"u{number % user_count}", number, number // user_count) for number in numbers]
        )


async def _compare(world: World, event_count: int, user_count: int) -> Found:
    """Returns what is stored of all users, read from Redis itself, beside what was written."""
    limits = StoreLimits(max_events=world.max_events)
    store = FeatureStore(StoreSettings(world.redis.url, limits=limits, read_timeout_s=20.0))
    found = Found()
    try:
        for first in range(0, user_count, _USERS_AT_ONCE):
            users = range(first, min(first + _USERS_AT_ONCE, user_count))
            records = await store.read([f"u{user}" for user in users], world.max_events)
            for user, record in zip(users, records, strict=True):
                stored = record.decode()
                items = [] if stored is None else [event.item_id for event in stored.events]
                compare(items, [f"i{number}" for number in range(user, event_count, user_count)], found)
    finally:
        await store.close()
    return found


def compare(items: list[str], expected: list[str], found: Found) -> None:
    """Adds what is wrong with the history of a user to `found`.

    Args:
        items: Items of the stored events.
        expected: Items of the events that were written, by time; all distinct.
        found: Sums so far.
    """
    there, wanted = set(items), set(expected)
    found.lost += len(wanted - there)
    found.doubled += len(items) - len(there & wanted)
    found.misplaced += [item for item in expected if item in there] != [
        item for item in dict.fromkeys(items) if item in wanted
    ]
