"""Writes of many users at once."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.errors import StoreFull, StoreUnavailable
from retrieval.live_features.feature_store import FeatureStore
from retrieval.live_features.records import Appended, Event, StoreLimits
from testbed.redis_server import RedisServer
from tests.retrieval.live_features.world import event, fill, items, read, run


def test_a_bulk_write_can_be_repeated(redis_server: RedisServer) -> None:
    def put_all() -> Appended:
        with BulkWriter(redis_server.url, StoreLimits(max_events=3000)) as writer:
            for number in range(1200):  # more than one batch
                user_id = f"u{number}"
                writer.put(user_id, {"age": [float(number)]}, [event("1", user_id), event("2", user_id)])
            writer.put("long", {}, [event(f"{number:04}", "long", float(number)) for number in range(2500)])
        return writer.written

    assert put_all() == Appended(recorded=4900)
    assert put_all() == Appended(already_there=4900)

    async def look(store: FeatureStore) -> None:
        records = await store.read([f"u{number}" for number in range(1200)], 5)
        for number, record in enumerate(records):
            user = record.decode()
            assert user is not None
            assert (user.profile, items(user)) == ({"age": [float(number)]}, ["i1", "i2"])
        assert len(items(await read(store, "long", 5000))) == 2500

    run(redis_server, look)


def test_a_bulk_write_keeps_the_newest_events(redis_server: RedisServer) -> None:
    with BulkWriter(redis_server.url, StoreLimits(max_events=2)) as writer:
        writer.put("42", {}, [event(each, time_s=time_s) for each, time_s in (("a", 1.0), ("c", 1.0), ("b", 1.0))])
    assert writer.written == Appended(recorded=2, too_old=1)

    async def look(store: FeatureStore) -> None:
        assert items(await read(store)) == ["ib", "ic"]

    run(redis_server, look)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", {}, []), "user_id"),
        (("42", {}, [event("1", "43")]), "43"),
        (("42", {}, [Event("1", "42", "", 1.0)]), "item_id"),
        (("42", {}, [Event("1", "42", "i", 1.8e12)]), "milliseconds"),
        (("42", {}, [Event("1", "42", "i", 1.0, values={"a": float("nan")})]), "finite"),
        (("42", {"age": [float("nan")]}, []), "JSON"),
    ],
)
def test_a_bulk_write_refuses_what_cannot_be_stored(
    redis_server: RedisServer, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message), BulkWriter(redis_server.url, StoreLimits()) as writer:
        writer.put(*arguments)


def test_a_bulk_write_to_nobody_says_so() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        BulkWriter("redis://127.0.0.1:1/0", StoreLimits())


def test_a_full_server_stops_a_bulk_write_with_a_plain_error(redis_server: RedisServer) -> None:
    fill(redis_server)
    writer = BulkWriter(redis_server.url, StoreLimits())
    writer.put("42", {"age": [1.0]}, [event("1")])
    with pytest.raises(StoreFull, match="maxmemory"):
        writer.close()
    with redis.Redis(port=redis_server.port) as client:
        assert client.dbsize() == 0


def test_a_profile_is_replaced_as_a_whole_or_not_at_all(redis_server: RedisServer) -> None:
    with BulkWriter(redis_server.url, StoreLimits()) as writer:
        writer.put("42", {"age": [1.0], "city": ["a"]}, [])
    fill(redis_server)
    writer = BulkWriter(redis_server.url, StoreLimits())
    writer.put("42", {"age": [2.0]}, [])
    with pytest.raises(StoreFull):
        writer.close()

    async def look(store: FeatureStore) -> None:
        user = await read(store)
        assert user is not None
        assert user.profile == {"age": [1.0], "city": ["a"]}

    run(redis_server, look)
