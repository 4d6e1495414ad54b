"""What a server answers or holds that this package did not write, and what is too large, in a real Redis server."""

from __future__ import annotations

import asyncio

import pytest
import redis

from retrieval.live_features.circuit import CLOSED, FAILURES, OPEN, SPAN_S
from retrieval.live_features.errors import StoreUnavailable, UnreadableRecord
from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import Appended
from testbed.redis_server import RedisServer
from tests.retrieval.live_features.world import event, items, read, run


@pytest.mark.parametrize(
    "answer",
    [
        "+OK",
        ":1",
        "$-1",
        "*-1",
        "*0",
        "*2\r\n$-1\r\n$-1",
        "*2\r\n:1\r\n:2",
        "*3\r\n+1\r\n+2\r\n+3",
        "*1\r\n" * 5000,
        "?",
    ],
)
def test_a_server_that_answers_otherwise_is_no_store(answer: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while chunk := await reader.read(65_536):
            data += chunk
            writer.write((f"{answer}\r\n" if b"EVALSHA" in data else "+OK\r\n").encode())
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            store = FeatureStore(StoreSettings(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"))
            for _ in range(FAILURES):
                for attempt in (store.read(["42"], 5), store.append([event("1")]), store.forget("42")):
                    with pytest.raises(StoreUnavailable):
                        await attempt
                await asyncio.sleep(SPAN_S / FAILURES)
            with pytest.raises(StoreUnavailable):
                await read(store)
            assert OPEN in (store.read_circuit, store.write_circuit)
            await store.close()

    asyncio.run(work())


def test_what_others_wrote_is_unreadable_for_that_user_alone(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event("1", "good"), event("1", "bad"), event("1", "worse")])
        with redis.Redis(port=redis_server.port) as client:
            client.hset("two-tower:{bad}:events", "1", "{no json")
            client.delete("two-tower:{worse}:order")
            client.set("two-tower:{worse}:order", "a string")
            client.hset("two-tower:{odd}:profile", "age", '{"not": "a list"}')
            client.zadd("two-tower:{short}:order", {"1": 1})
            client.hset("two-tower:{short}:events", "1", '["i1"]')
        records = await store.read(["good", "bad", "worse", "odd", "short"], 5)
        assert items(records[0] and records[0].decode()) == ["i1"]
        for record in records[1:]:
            assert record is not None
            with pytest.raises(UnreadableRecord):
                record.decode()
        assert store.read_circuit == CLOSED
        with pytest.raises(UnreadableRecord):
            await store.append([event("2", "worse")])
        assert (await store.forget("worse")).remaining == 0
        assert await store.append([event("2", "worse")]) == Appended(recorded=1)

    run(redis_server, work)


def test_what_is_too_large_is_measured_and_not_copied(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as client:
        for first in range(0, 100_000, 1000):
            client.hset("two-tower:{wide}:profile", mapping={f"f{first + n}": "[1]" for n in range(1000)})
        client.hset("two-tower:{deep}:profile", "f", "x" * 40_000_000)
        client.zadd("two-tower:{long}:order", {"1": 1})
        client.hset("two-tower:{long}:events", "1", "x" * 40_000_000)

        async def work(store: FeatureStore) -> None:
            await read(store)  # loads the script
            before = client.info("memory")["used_memory_peak"]
            wide, deep, long = await store.read(["wide", "deep", "long"], 5)
            for record in (wide, deep):
                assert record is not None
                with pytest.raises(UnreadableRecord):
                    record.decode()
            assert long is not None
            assert long.is_empty
            # The memory of the engine of scripts counts since the start: it took no copy.
            assert client.info("memory")["used_memory_peak"] - before < 10_000_000
            assert client.info("memory")["used_memory_vm_eval"] < 10_000_000

        run(redis_server, work)


def test_no_event_is_written_where_one_key_is_of_another_type(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        with redis.Redis(port=redis_server.port) as client:
            for kind in ("order", "events", "profile"):
                client.flushdb()
                client.set(f"two-tower:{{42}}:{kind}", "a string")
                with pytest.raises(UnreadableRecord):
                    await store.append([event("1"), event("2")])
                assert client.dbsize() == 1

    run(redis_server, work)


def test_a_history_of_which_redis_evicted_a_part_is_read_and_mended(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event("1", time_s=1.0), event("2", time_s=2.0)])
        with redis.Redis(port=redis_server.port) as client:
            client.hdel("two-tower:{42}:events", "2")
        assert items(await read(store)) == ["i1"]
        assert await store.append([event("2", time_s=2.0)]) == Appended(recorded=1)
        assert items(await read(store)) == ["i1", "i2"]

    run(redis_server, work)
