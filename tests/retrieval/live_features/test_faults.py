"""A feature store that is killed, frozen, full, flushed, or written by others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.circuit import CLOSED, FAILURES, HALF_OPEN, OPEN, PAUSE_S, SPAN_S, Circuit
from retrieval.live_features.errors import FeatureStoreError, StoreFull, StoreUnavailable
from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import Appended, StoreLimits
from testbed.redis_server import NoRedis, RedisServer
from tests.retrieval.live_features.world import event, fill, items, put_histories, read, run


async def until_it_answers(store: FeatureStore) -> None:
    """Reads until the store answers again; the timeout of the test ends it if it never does."""
    while True:
        try:
            await read(store)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            return


async def until_the_circuit_opens(store: FeatureStore) -> None:
    """Reads in vain until the circuit opens; the timeout of the test ends it if it never does."""
    while store.read_circuit == CLOSED:
        with pytest.raises(StoreUnavailable):
            await read(store)
        await asyncio.sleep(0.01)
    assert store.read_circuit == OPEN


def test_a_killed_server_fails_at_once_and_answers_when_it_is_back(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event("1")])
        redis_server.kill()
        await until_the_circuit_opens(store)
        assert store.write_circuit == CLOSED
        with pytest.raises(StoreUnavailable, match="several times in a row"):
            await read(store)
        with pytest.raises(StoreUnavailable):
            await store.append([event("2")])
        redis_server.start()
        await until_it_answers(store)
        assert store.read_circuit == CLOSED
        assert await read(store) is None  # this server keeps nothing on disk
        # The scripts are gone too; the store loads them again.
        assert await store.append([event("2"), event("3", "43")]) == Appended(recorded=2)

    run(redis_server, work)


def test_a_frozen_server_costs_the_timeout_and_no_later_answer_is_taken_for_another(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event(f"{number}", f"u{number}") for number in range(20)])
        redis_server.freeze()
        try:
            started = time.monotonic()
            # So many at the same moment are no reason to open the circuit; it opens if it goes on.
            outcomes = await asyncio.gather(
                *(store.read([f"u{number}"], 5) for number in range(20)), return_exceptions=True
            )
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert time.monotonic() - started < 5.0  # 0.2 s, and what a busy machine adds
            assert store.read_circuit == CLOSED
            await until_the_circuit_opens(store)
        finally:
            redis_server.thaw()
        await until_it_answers(store)
        for number in range(20):
            assert items(await read(store, f"u{number}")) == [f"i{number}"]

    run(redis_server, work, read_timeout_s=0.2)


def test_a_caller_that_gives_up_early_does_not_open_the_circuit(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        redis_server.freeze()
        try:
            for _ in range(3 * FAILURES):
                with pytest.raises(StoreUnavailable):
                    await store.read(["u"], 5, within_s=0.01)
            assert store.read_circuit == CLOSED
        finally:
            redis_server.thaw()
        assert await read(store) is None

    run(redis_server, work)


def test_a_read_of_many_users_holds_up_no_read_of_one(redis_server: RedisServer) -> None:
    users = put_histories(redis_server, 512, 100)

    async def work(store: FeatureStore) -> None:
        for _ in range(3):
            many = asyncio.create_task(store.read(users, 1000))
            await asyncio.sleep(0)
            one = asyncio.create_task(store.read(["h1"], 1000))
            few = asyncio.create_task(store.read(["h1", "h2"], 1000))
            await asyncio.gather(one, few)
            assert not many.done()
            assert all(record is not None for record in await many)

    run(redis_server, work, read_timeout_s=30.0)


def test_a_read_of_too_many_users_gets_a_part_and_opens_no_circuit(redis_server: RedisServer) -> None:
    users = put_histories(redis_server, 300, 1000)

    async def work(store: FeatureStore) -> None:
        answered = 0
        until = time.monotonic() + 4 * SPAN_S
        while time.monotonic() < until or not answered:
            try:
                records = await store.read(users, 1000)
            except StoreUnavailable as error:
                assert "in time" in str(error)  # noqa: PT017 - and not: several times in a row
                continue
            found = [record for record in records if record is not None]
            assert 0 < len(found) < len(users)
            answered += len(found)
            assert len(items(found[0].decode())) == 1000

    run(redis_server, work, read_timeout_s=0.05)


def test_a_caller_that_is_cancelled_leaves_the_connection_to_others(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event(f"{number}", f"u{number}") for number in range(50)])
        for number in range(0, 50, 2):
            given_up = [asyncio.create_task(store.read([f"u{number}"], 5)) for _ in range(10)]
            await asyncio.sleep(0)
            for task in given_up:
                task.cancel()
            assert items(await read(store, f"u{number + 1}")) == [f"i{number + 1}"]
            await asyncio.gather(*given_up, return_exceptions=True)

    run(redis_server, work)


def test_a_full_server_is_read_and_forgets_but_records_nothing(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event("1")])
        fill(redis_server)
        for _ in range(2 * FAILURES):
            with pytest.raises(StoreFull, match="maxmemory"):
                await store.append([event("2"), event("3", "43")])
        assert store.write_circuit == CLOSED  # it did answer
        assert items(await read(store)) == ["i1"]
        assert await read(store, "43") is None
        assert (await store.forget("42")).remaining == 0
        assert redis_server.ask("CONFIG", "SET", "maxmemory", "0") == "+OK"
        assert await store.append([event("2")]) == Appended(recorded=1)

    run(redis_server, work)


def test_a_flushed_server_knows_nobody_and_takes_events_again(redis_server: RedisServer) -> None:
    async def work(store: FeatureStore) -> None:
        await store.append([event("1")])
        assert redis_server.ask("FLUSHALL") == "+OK"
        assert redis_server.ask("SCRIPT", "FLUSH") == "+OK"
        assert await read(store) is None
        assert await store.append([event("1")]) == Appended(recorded=1)
        assert items(await read(store)) == ["i1"]

    run(redis_server, work)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("s3cret-pass\n")
    path.chmod(0o600)
    return path


def test_a_password_is_read_from_a_file_for_each_connection(tmp_path: Path, password: Path) -> None:
    try:
        server = RedisServer(tmp_path / "redis", "--requirepass", "s3cret-pass")
    except NoRedis as error:
        pytest.skip(str(error))
    with server:
        with BulkWriter(server.url, StoreLimits(), password) as writer:
            writer.put("42", {}, [event("1")])
        with pytest.raises(FeatureStoreError, match=r"refused|reached"):
            BulkWriter(server.url, StoreLimits())

        async def work() -> None:
            password.write_text("wrong-pass")
            store = FeatureStore(StoreSettings(server.url, password, read_timeout_s=5.0))
            with pytest.raises(StoreUnavailable) as caught:
                await read(store)
            assert "pass" not in str(caught.value).replace("password", "")
            password.write_text("s3cret-pass")
            assert items(await read(store)) == ["i1"]
            await store.close()

        asyncio.run(work())


def test_events_of_a_server_that_keeps_all_survive_its_death(tmp_path: Path) -> None:
    try:
        server = RedisServer(tmp_path / "redis", keeps=True)
    except NoRedis as error:
        pytest.skip(str(error))
    with server:

        async def work(store: FeatureStore) -> None:
            for number in range(100):
                await store.append([event(f"{number:03}", time_s=float(number))])
            server.kill()
            server.start()
            await until_it_answers(store)
            assert items(await read(store)) == [f"i{number:03}" for number in range(100)]

        run(server, work)


def test_the_circuit_is_as_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    circuit = Circuit()
    for _ in range(FAILURES - 1):
        assert circuit.may_try()
        circuit.failed()
    circuit.succeeded()  # the failures have to be in a row
    for _ in range(10 * FAILURES):  # all in one moment
        assert circuit.may_try()
        circuit.failed()
    circuit.succeeded()
    circuit.failed()
    now[0] += SPAN_S
    for _ in range(FAILURES - 1):
        assert circuit.state == CLOSED
        assert circuit.may_try()
        circuit.failed()
    assert circuit.state == OPEN
    assert not circuit.may_try()
    now[0] += PAUSE_S
    assert circuit.may_try()
    assert circuit.state == HALF_OPEN
    assert not circuit.may_try()  # one try at a time
    circuit.failed()
    assert circuit.state == OPEN
    now[0] += PAUSE_S
    assert circuit.may_try()
    now[0] += PAUSE_S  # whoever was to try was cancelled
    assert circuit.may_try()
    circuit.succeeded()
    assert circuit.state == CLOSED
