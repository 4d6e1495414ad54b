"""`load-features`: what it stores of whom, what a second run does, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval.live_features.feature_store import FeatureStore, StoreSettings
from retrieval.live_features.records import StoredUser, StoreLimits
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import query_tower_service
from tests.trainer.recommending.world import RECIPE, films, viewers
from tests.trainer.world import command
from trainer.errors import DataError, RunError
from trainer.recommending.histories import Histories
from trainer.recommending.recommender import Recommender
from trainer.recommending.users import Users
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower_client.query_tower import to_request


def load(store: FolderStore, redis_server: RedisServer, *arguments: Any) -> dict[str, Any]:
    return json.loads(
        command("load-features", "--store", store.root, "--features", redis_server.url, "--json", *arguments)
    )


def stored(redis_server: RedisServer, *user_ids: str, prefix: str = "two-tower") -> list[StoredUser | None]:
    async def read() -> list[StoredUser | None]:
        settings = StoreSettings(redis_server.url, limits=StoreLimits(prefix=prefix), read_timeout_s=20.0)
        opened = FeatureStore(settings)
        try:
            return [record.decode() for record in await opened.read(user_ids, 1000)]
        finally:
            await opened.close()

    return asyncio.run(read())


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


EVENTS = """viewer,film,at
ann,i3,1700000003
bob,i7,1700000001
ann,i1,1700000001
ann,i2,1700000001
ann,i2,1700000002
ann,i0,1700000001
"""


def test_stores_profiles_and_events_in_the_order_of_the_training(
    store: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    version = films(store)
    events = write(tmp_path / "events.csv", EVENTS)
    users = write(tmp_path / "viewers.csv", "viewer,years,gender,likes\nann,31,f,comedy|drama\nbob,,m,\neve,,,\n")
    told = load(store, redis_server, "--users", users, "--interactions", events)
    del told["seconds"]
    assert told == {
        "bundle_version": version,
        "users": 3,
        "users_without_events": 1,
        "users_without_profile": 1,
        "events_beyond_limit": 0,
        "events_recorded": 6,
        "events_already_there": 0,
        "events_too_old": 0,
    }
    ann, bob, eve = stored(redis_server, "ann", "bob", "eve")
    assert ann is not None
    assert bob is not None
    assert eve is None
    # Of one time, in the order of the rows.
    assert [(event.item_id, event.time_s - 1.7e9) for event in ann.events] == [
        ("i1", 1.0),
        ("i2", 1.0),
        ("i0", 1.0),
        ("i2", 2.0),
        ("i3", 3.0),
    ]
    assert ann.profile == {"age": [31.0], "gender": ["f"], "likes": ["comedy", "drama"]}
    assert ([event.item_id for event in bob.events], bob.profile) == (["i7"], {"gender": ["m"]})


def test_a_second_run_writes_nothing_twice_and_adds_what_is_new(
    store: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    films(store)
    events = write(tmp_path / "events.csv", EVENTS)
    assert load(store, redis_server, "--interactions", events)["events_recorded"] == 6
    before = stored(redis_server, "ann", "bob")
    told = load(store, redis_server, "--interactions", events)
    assert (told["events_recorded"], told["events_already_there"]) == (0, 6)
    assert stored(redis_server, "ann", "bob") == before
    # A row of another time, wherever it is in the table, changes no id.
    head, *lines = EVENTS.splitlines(keepends=True)
    write(events, "".join([head, "ann,i9,1699999999\n", *lines]))
    told = load(store, redis_server, "--interactions", events)
    assert (told["events_recorded"], told["events_already_there"]) == (1, 6)
    (ann,) = stored(redis_server, "ann")
    assert ann is not None
    assert [event.item_id for event in ann.events] == ["i9", "i1", "i2", "i0", "i2", "i3"]


def test_a_run_that_was_stopped_can_be_run_again(store: FolderStore, redis_server: RedisServer, tmp_path: Path) -> None:
    films(store)
    frame = viewers(100)
    events = frame.select("viewer", film="watched").explode("film").drop_nulls()
    events = events.with_columns(at=pl.Series(np.arange(events.height) + 1.7e9))
    events.write_csv(tmp_path / "events.csv")
    arguments = ("--interactions", tmp_path / "events.csv")
    redis_server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(RunError, match=r"is full: its memory has reached maxmemory.*\n.*run the command again"):
        load(store, redis_server, *arguments)
    redis_server.ask("CONFIG", "SET", "maxmemory", "0")
    assert load(store, redis_server, *arguments)["events_recorded"] == events.height


def test_keeps_the_newest_events_and_says_how_many_it_left_out(
    store: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    films(store)
    events = write(tmp_path / "events.csv", EVENTS)
    limits = ("--features-max-events", 2, "--features-prefix", "shop")
    told = load(store, redis_server, "--interactions", events, *limits)
    assert (told["events_recorded"], told["events_beyond_limit"], told["events_too_old"]) == (3, 3, 0)
    assert load(store, redis_server, "--interactions", events, *limits)["events_already_there"] == 3
    (ann,) = stored(redis_server, "ann", prefix="shop")
    assert ann is not None
    assert [event.item_id for event in ann.events] == ["i2", "i3"]
    assert redis_server.ask("EXISTS", "shop:{ann}:order", "shop:{bob}:events", "two-tower:{ann}:order") == ":2"


def test_says_what_it_needs(store: FolderStore, redis_server: RedisServer, tmp_path: Path) -> None:
    films(store)
    with pytest.raises(RunError, match="nothing to load; name a table with --users"):
        load(store, redis_server)
    viewers(5).drop("exclude_item_ids").write_parquet(tmp_path / "viewers.parquet")
    with pytest.raises(DataError, match=r"the column 'watched' holds histories.*name it with --interactions"):
        load(store, redis_server, "--users", tmp_path / "viewers.parquet")
    long = write(tmp_path / "long.csv", f"viewer,film,at\nann,{'i' * 1025},1700000001\n")
    with pytest.raises(DataError, match=r"user 'ann', event .*: item_id: 1025 characters, expected at most 1024"):
        load(store, redis_server, "--interactions", long)
    events = write(tmp_path / "events.csv", EVENTS)
    with pytest.raises(RunError, match="max_events is 0, expected 1 to 100000"):
        load(store, redis_server, "--interactions", events, "--features-max-events", 0)
    redis_server.kill()
    with pytest.raises(RunError, match="the feature store cannot be reached"):
        load(store, redis_server, "--interactions", events)


def test_a_user_id_alone_gives_the_embedding_of_all_features_and_of_recommend(
    store: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    version = films(store)
    frame = viewers(100).drop("exclude_item_ids")
    frame.drop("watched").write_parquet(tmp_path / "viewers.parquet")
    events = frame.select("viewer", film="watched").explode("film").drop_nulls()
    # Four events share each second.
    events = events.with_columns(at=pl.Series(np.arange(events.height) // 4 + 1.7e9))
    events.write_csv(tmp_path / "events.csv")
    tables = (tmp_path / "viewers.parquet", tmp_path / "events.csv")
    load(store, redis_server, "--users", tables[0], "--interactions", tables[1])
    recommender = Recommender.open(store, version, 1)
    histories = Histories.read(RECIPE, tables[1], [])
    users = Users(tables[0], histories, RECIPE, recommender.tower.schema, recommender.item_ids)
    (batch,) = users.batches(100)
    columns = users.queries(batch).columns
    lists, _ = recommender.embed(columns, 100, 0.0)
    with query_tower_service(store, features=redis_server.url, features_timeout_s=10.0) as tower:
        tower.wait_until_serving()
        for number, row in enumerate(frame.iter_rows(named=True)):
            user, years = row.pop("viewer"), row.pop("years")
            whole = tower.stub.EmbedQueries(to_request([{"age": years, **row}]), timeout=20)
            request = pb.EmbedQueriesRequest(queries=[pb.Query(user_id=user)], return_histories=True)
            by_id = tower.stub.EmbedQueries(request, timeout=20)
            assert list(by_id.stored_features) == [pb.STORED_FEATURES_USED]
            assert list(by_id.histories[0].item_ids) == row["watched"]
            assert by_id.embeddings[0].SerializeToString() == whole.embeddings[0].SerializeToString()
            assert list(by_id.unknown_values) == list(whole.unknown_values)
            # One user at a time, and not scaled: a batch, and a sum of squares, may round the last digit another way.
            alone = recommender.tower.embed({name: column[number : number + 1] for name, column in columns.items()}, 1)
            assert list(by_id.embeddings[0].values) == alone[0].tolist()
            assert lists[number].tolist() == pytest.approx(alone[0].tolist(), abs=1e-6)
