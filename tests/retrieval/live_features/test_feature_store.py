"""What a feature store keeps of a user, in a real Redis server."""

from __future__ import annotations

import itertools
import random

import pytest
import redis

from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.errors import UnreadableRecord
from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import Appended, Event, Forgotten, StoredEvent, StoredUser, StoreLimits
from testbed.redis_server import RedisServer
from tests.retrieval.live_features.world import HOSTILE_IDS, all_bytes, event, items, read, run
from tests.worlds import wait_for


def test_an_event_comes_back_as_it_was(redis_server: RedisServer) -> None:
    full = event("1", time_s=1.1e9 + 0.1, type="view", weight=0.5, values={"rating": 4.0, "shop": "é", "n": 2**62})

    async def work(store: FeatureStore) -> None:
        assert await store.append([full, event("2", time_s=-5.0)]) == Appended(recorded=2)
        assert await read(store) == StoredUser(
            {},
            [
                StoredEvent("i2", -5.0),
                StoredEvent("i1", 1.1e9 + 0.1, "view", 0.5, {"rating": 4.0, "shop": "é", "n": 2**62}),
            ],
        )

    run(redis_server, work)


def test_an_event_is_recorded_once_whatever_its_other_fields_are(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        first = event("1", time_s=1.0)
        assert await store.append([first, first]) == Appended(recorded=1, already_there=1)
        assert await store.append([first]) == Appended(already_there=1)
        assert await store.append([event("1", time_s=9.0, type="later")]) == Appended(already_there=1)
        assert await store.append([event("1", user_id="43")]) == Appended(recorded=1)
        user = await read(store)
        assert user is not None
        assert user.events == [StoredEvent("i1", 1.0)]

    run(redis_server, work)


def test_events_are_ordered_by_time_and_then_by_id_whatever_order_they_came_in(redis_server: RedisServer) -> None:
    # "10" sorts before "9", as texts do.
    events = [event("b", time_s=1.0), event("a", time_s=1.0), event("9", time_s=2.0), event("10", time_s=2.0)]
    expected = ["ia", "ib", "i10", "i9"]

    async def work(store: FeatureStore) -> None:
        for number, order in enumerate(itertools.permutations(events)):
            user_id = f"u{number}"
            of_user = [event(each.event_id, user_id, each.time_s) for each in order]
            for first in range(0, 4, 1 + number % 4):
                await store.append(of_user[first : first + 1 + number % 4])
            assert items(await read(store, user_id)) == expected

    run(redis_server, work)


def test_the_newest_events_are_kept_and_read(redis_server: RedisServer) -> None:
    numbers = list(range(100))
    random.Random(1).shuffle(numbers)

    async def work(store: FeatureStore) -> None:
        total = Appended()
        for number in numbers:
            total += await store.append([event(f"{number:02}", time_s=float(number))])
        user = await read(store)
        assert items(user) == [f"i{number:02}" for number in range(90, 100)]
        assert items(await read(store, newest=3)) == ["i97", "i98", "i99"]
        assert await read(store, newest=0) is None
        assert total.recorded + total.too_old == 100
        assert total.already_there == 0
        # Older than all of a full history: dropped, and dropped again.
        for _ in range(2):
            assert await store.append([event("old", time_s=-1.0)]) == Appended(too_old=1)
        # As old as the oldest: the id decides, and "90" is the oldest id.
        assert await store.append([event("89x", time_s=90.0)]) == Appended(too_old=1)
        assert await store.append([event("90x", time_s=90.0)]) == Appended(recorded=1)
        assert items(await read(store)) == ["i90x", *(f"i{number}" for number in range(91, 100))]

    run(redis_server, work, StoreLimits(max_events=10))
    with redis.Redis(port=redis_server.port) as client:  # what was dropped takes no room either
        assert client.zcard("two-tower:{42}:order") == client.hlen("two-tower:{42}:events") == 10


def test_a_batch_larger_than_a_history_counts_what_it_pushed_out_as_too_old(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        events = [event(f"{number:02}", time_s=float(number)) for number in range(20)]
        assert await store.append(list(reversed(events))) == Appended(recorded=5, too_old=15)
        assert await store.append(events) == Appended(already_there=5, too_old=15)

    run(redis_server, work, StoreLimits(max_events=5))


def test_a_lower_limit_holds_from_the_next_event_on(redis_server: RedisServer) -> None:
    async def fill(store: FeatureStore) -> None:
        await store.append([event(f"{number:04}", time_s=float(number)) for number in range(3000)])

    async def add(store: FeatureStore) -> None:
        assert len(items(await read(store, newest=5000))) == 3000
        await store.append([event("x", time_s=9e9)])
        assert items(await read(store, newest=5000)) == ["i2998", "i2999", "ix"]

    run(redis_server, fill, StoreLimits(max_events=3000))
    run(redis_server, add, StoreLimits(max_events=3))


def test_everything_of_a_user_expires_after_the_last_write(redis_server: RedisServer) -> None:
    days = 0.3 / 86_400  # 0.3 s

    async def work(store: FeatureStore) -> None:
        await store.append([event("1")])
        with redis.Redis(port=redis_server.port) as client:
            first = client.pexpiretime("two-tower:{42}:order")
            assert await store.append([event("1")]) == Appended(already_there=1)
            times = {client.pexpiretime(f"two-tower:{{42}}:{name}") for name in ("order", "events")}
            assert len(times) == 1  # both go at the same time
            assert min(times) >= first > 0  # a write renews it
            wait_for(lambda: not client.dbsize(), "the user expires")
        assert await read(store) is None

    run(redis_server, work, StoreLimits(keep_days=days))


def test_nothing_is_left_of_a_forgotten_user(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        for user_id in HOSTILE_IDS:
            await store.append([event("1", user_id, type="view"), event("2", user_id)])
        await store.append([event("1", "somebody else")])
        for user_id in HOSTILE_IDS:
            assert items(await read(store, user_id)) == ["i1", "i2"]
            assert await store.forget(user_id) == Forgotten(events=2, profile_values=0, remaining=0)
            assert await read(store, user_id) is None
            assert await store.forget(user_id) == Forgotten(events=0, profile_values=0, remaining=0)
        assert items(await read(store, "somebody else")) == ["i1"]

    run(redis_server, work)
    with redis.Redis(port=redis_server.port) as client:
        assert {key.decode() for key in client.scan_iter()} == {
            "two-tower:{somebody else}:order",
            "two-tower:{somebody else}:events",
        }


def test_no_key_or_value_names_a_forgotten_user(redis_server: RedisServer) -> None:
    user_id = "user-to-be-forgotten-77"

    async def write(store: FeatureStore) -> None:
        await store.append([event("1", user_id), event("2", "other")])

    async def forget(store: FeatureStore) -> None:
        await store.forget(user_id)

    run(redis_server, write)
    assert user_id.encode() in all_bytes(redis_server)
    run(redis_server, forget)
    assert user_id.encode() not in all_bytes(redis_server)


def test_users_whose_ids_resemble_keys_of_others_are_apart(redis_server: RedisServer) -> None:
    ids = ["a", "a}:order", "{a}", "a%7D:order", "a%", "%"]

    async def work(store: FeatureStore) -> None:
        await store.append([event(f"{number}", user_id) for number, user_id in enumerate(ids)])
        records = await store.read(ids, 10)
        assert [items(record and record.decode()) for record in records] == [
            [f"i{number}"] for number in range(len(ids))
        ]

    run(redis_server, work)
    with redis.Redis(port=redis_server.port) as client:
        assert client.dbsize() == 2 * len(ids)


def test_hostile_ids_of_events_and_items_come_back(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([Event(text, "42", text, 1.0, text, values={text: text}) for text in HOSTILE_IDS])
        user = await read(store)
        assert user is not None
        # Of equal times, so in the order of the bytes of their ids.
        ordered = sorted(HOSTILE_IDS, key=str.encode)
        assert user.events == [StoredEvent(text, 1.0, text, 1.0, {text: text}) for text in ordered]

    run(redis_server, work)


def test_another_store_reads_what_was_just_written(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        other = FeatureStore(StoreSettings(redis_server.url, read_timeout_s=5.0))
        for number in range(50):
            await store.append([event(f"{number:02}", time_s=float(number))])
            assert items(await read(other, newest=1)) == [f"i{number:02}"]
        await other.close()

    run(redis_server, work)


def test_of_large_events_the_newest_are_read_and_a_record_has_a_largest_size(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        values = {f"v{number}": "x" * 1000 for number in range(10)}  # about 10 KB an event
        await store.append([event(f"{number:02}", time_s=float(number), values=values) for number in range(20)])
        (record,) = await store.read(["42"], 100)
        assert record is not None
        assert len(record.events) <= 66_000
        assert items(record.decode()) == [f"i{number}" for number in range(14, 20)]
        with redis.Redis(port=redis_server.port) as client:
            client.hset("two-tower:{43}:profile", "age", "[" + "1," * 40_000 + "1]")
        (record,) = await store.read(["43"], 100)
        assert record is not None
        with pytest.raises(UnreadableRecord):
            record.decode()

    run(redis_server, work)
    with pytest.raises(ValueError, match="65536"), BulkWriter(redis_server.url, StoreLimits()) as writer:
        writer.put("42", {"likes": ["x" * 1000] * 70}, [])


def test_many_users_are_read_at_once_in_order(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event(f"{number}", f"u{number}") for number in range(0, 500, 2)])
        users = [record and record.decode() for record in await store.read([f"u{number}" for number in range(500)], 5)]
        for number, user in enumerate(users):
            assert (user is None) if number % 2 else (items(user) == [f"i{number}"])

    run(redis_server, work)


def test_shops_with_other_prefixes_share_a_server(redis_server: RedisServer) -> None:
    async def write(store: FeatureStore) -> None:
        await store.append([event("1")])

    async def look(store: FeatureStore) -> None:
        assert await read(store) is None

    run(redis_server, write, StoreLimits(prefix="shop-a"))
    run(redis_server, look, StoreLimits(prefix="shop-b"))


def test_a_unix_socket_does_too(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        assert await store.append([event("1")]) == Appended(recorded=1)

    run(redis_server, work, url=redis_server.unix_url)


@pytest.mark.parametrize("limits", [{"max_events": 0}, {"keep_days": 0}, {"prefix": "a{b"}, {"prefix": "a b"}])
def test_limits_out_of_range_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        StoreLimits(**limits)  # type: ignore[arg-type]
