"""Events whose order is known, and a way to run what a feature store does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis

from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import Event, StoredUser, StoreLimits
from testbed.redis_server import RedisServer

T = TypeVar("T")

# Each is a user id that could break keys, protocol or clean-up.
HOSTILE_IDS = [
    "}",
    "{}",
    "a}:order",
    "{a}",
    "%7B",
    "a b\r\nDEL *\r\n",
    "\x00\x01",
    "*",
    "[a-z]?",
    "ünïcödé 👩‍👩‍👧",
    "x" * 1024,
    "'; return redis.call('FLUSHALL') --",
    '"\\',
]


def event(event_id: str, user_id: str = "42", time_s: float = 0.0, **fields: Any) -> Event:
    return Event(event_id, user_id, f"i{event_id}", time_s, **fields)


def run(
    server: RedisServer,
    work: Callable[[FeatureStore], Awaitable[T]],
    limits: StoreLimits | None = None,
    *,
    read_timeout_s: float = 5.0,
    write_timeout_s: float = 5.0,
    url: str = "",
) -> T:
    """Runs work with a feature store in an event loop of its own."""

    async def run_and_close() -> T:
        settings = StoreSettings(
            url or server.url,
            limits=limits or StoreLimits(),
            read_timeout_s=read_timeout_s,
            write_timeout_s=write_timeout_s,
        )
        store = FeatureStore(settings)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run_and_close())


async def read(store: FeatureStore, user_id: str = "42", newest: int = 100) -> StoredUser | None:
    return (await store.read([user_id], newest))[0].decode()


def items(user: StoredUser | None) -> Sequence[str]:
    assert user is not None
    return [each.item_id for each in user.events]


def all_bytes(server: RedisServer) -> bytes:
    """Returns every key of the server with its content, as it is stored."""
    with redis.Redis(port=server.port) as client:
        return b"\n".join(key + (client.dump(key) or b"") for key in client.scan_iter(count=1000))


def fill(server: RedisServer) -> None:
    """Leaves no memory for writes."""
    assert server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction") == "+OK"
    assert server.ask("CONFIG", "SET", "maxmemory", "1") == "+OK"


def put_histories(server: RedisServer, users: int, events: int) -> list[str]:
    """Gives users of ids ``h0``, ``h1``, … so many events each, and returns the ids."""
    scores = {f"{number:05}": float(number) for number in range(events)}
    stored = {event_id: f'["i{event_id}",{time_s}]' for event_id, time_s in scores.items()}
    with redis.Redis(port=server.port) as client:
        for number in range(users):
            with client.pipeline(transaction=False) as pipeline:
                pipeline.zadd(f"two-tower:{{h{number}}}:order", scores)
                pipeline.hset(f"two-tower:{{h{number}}}:events", mapping=stored)
                pipeline.execute()
    return [f"h{number}" for number in range(users)]
