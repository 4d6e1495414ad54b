"""Users, events and histories, from both clients over running services with a real Redis server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.records import StoreLimits
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import Running, ann_service, query_tower_service
from two_tower_client import (
    AsyncRetriever,
    Event,
    ForgottenUser,
    InvalidRequest,
    NoFeatureStore,
    QueryTowerClient,
    RecordedEvents,
    Retriever,
    Unavailable,
)
from two_tower_client.cli.main import main

Addresses = tuple[str, str]


def address(service: Running) -> str:
    return f"127.0.0.1:{service.port}"


@pytest.fixture
def served(filled: FolderStore, redis_server: RedisServer) -> Iterator[Addresses]:
    patient = {"features_timeout_s": 5.0, "features_write_timeout_s": 5.0}
    with (
        query_tower_service(filled, features=redis_server.url, **patient) as query_tower,
        ann_service(filled) as ann,
    ):
        for service in (query_tower, ann):
            service.wait_until_serving()
        yield address(query_tower), address(ann)


def test_a_user_id_gives_the_items_of_the_features(served: Addresses, redis_server: RedisServer) -> None:
    with BulkWriter(redis_server.url, StoreLimits()) as writer:
        writer.put("42", {"age": [24.0], "gender": ["f"]}, [])
    with Retriever(*served, timeout_s=10) as retriever:
        assert retriever.query_tower.record_events([Event("42", "i7"), Event("42", "i9")]) == RecordedEvents(recorded=2)
        by_id = retriever.retrieve({}, k=10, user_id="42")
        by_features = retriever.retrieve({"age": 24.0, "gender": "f", "watched": ["i7", "i9"]}, k=10)
        assert (by_id.stored_features, by_features.stored_features) == ("used", "")
        assert (by_id.item_ids, by_id.scores) == (by_features.item_ids, by_features.scores)
        older = retriever.retrieve({"age": 60.0}, k=10, user_id="42")
        assert older.scores == retriever.retrieve({"age": 60.0, "gender": "f", "watched": ["i7", "i9"]}, k=10).scores
        batch = retriever.retrieve_batch([{}, {"age": 24.0}, {}], k=5, user_ids=["42", "", "nobody"])
        assert [each.stored_features for each in batch] == ["used", "", "unknown_user"]


def test_the_history_is_left_out_if_that_is_asked_for(served: Addresses) -> None:
    with Retriever(*served, timeout_s=10) as retriever:
        retriever.query_tower.record_events([Event("42", f"i{number}", time_s=float(number)) for number in range(30)])
        seen = {f"i{number}" for number in range(30)}
        assert seen & set(retriever.retrieve({}, k=300, user_id="42").item_ids) == seen
        left = retriever.retrieve({}, k=300, user_id="42", exclude_history=True, exclude="i100")
        assert len(left) == 269
        assert not (seen | {"i100"}) & set(left.item_ids)
        carried = retriever.retrieve({"watched": ["i1", "i2"]}, k=300, exclude_history=True)
        assert len(carried) == 298
        batch = retriever.retrieve_batch([{}, {}], k=300, user_ids=["42", "nobody"], exclude_history=True)
        assert [len(each) for each in batch] == [270, 300]


def test_the_asyncio_client_does_the_same(served: Addresses) -> None:
    async def run() -> None:
        async with AsyncRetriever(*served, timeout_s=10) as retriever:
            tower = retriever.query_tower
            events = [Event("42", f"i{number}", "view", time_s=float(number)) for number in range(3)]
            assert await tower.record_events(events) == RecordedEvents(recorded=3)
            assert await tower.record_events(events) == RecordedEvents(already_there=3)
            found = await asyncio.gather(
                *(
                    retriever.retrieve({}, k=300, user_id=user_id, exclude_history=exclude)
                    for user_id in ("42", "nobody")
                    for exclude in (True, False)
                )
            )
            assert [len(each) for each in found] == [297, 300, 300, 300]
            assert [each.stored_features for each in found] == ["used", "used", "unknown_user", "unknown_user"]
            assert await tower.forget_user("42") == ForgottenUser(events=3, profile_values=0)
            assert await tower.forget_user("42") == ForgottenUser(events=0, profile_values=0)
            assert (await retriever.retrieve({}, user_id="42")).stored_features == "unknown_user"

    asyncio.run(run())


def test_callers_that_share_calls_get_their_own_user(served: Addresses) -> None:
    with Retriever(*served, timeout_s=20) as retriever:
        for number in range(16):
            retriever.query_tower.record_events([Event(f"u{number}", f"i{number}")])
        wrong: list[object] = []

        def call(number: int) -> None:
            for turn in range(20):
                user_id = "" if turn % 4 == 3 else f"u{number}" if number < 16 else "nobody"
                expected = "" if not user_id else "used" if number < 16 else "unknown_user"
                answer = retriever.query_tower.embed([{}], user_ids=[user_id], return_histories=turn % 2 == 0)
                history = () if turn % 2 else ((f"i{number}",) if expected == "used" else (),)
                if answer.stored_features != ((expected,) if expected else ()) or answer.histories != history:
                    wrong.append(answer)

        callers = [threading.Thread(target=call, args=(number,)) for number in range(18)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert wrong == []


def test_more_events_than_a_call_takes_are_sent_in_several(served: Addresses) -> None:
    with QueryTowerClient(served[0], timeout_s=20) as client:
        events = [Event(f"u{number % 7}", f"i{number}", time_s=float(number)) for number in range(2500)]
        assert client.record_events(events) == RecordedEvents(recorded=2500)
        assert client.record_events(events) == RecordedEvents(already_there=2500)


def test_an_event_without_time_and_id_has_those_of_its_making() -> None:
    before = time.time()
    first, second = Event("42", "i1"), Event("42", "i1")
    assert before <= first.time_s <= second.time_s <= time.time()
    assert first.event_id != second.event_id


@pytest.mark.parametrize(
    "event",
    [
        Event("42", 7),  # type: ignore[arg-type]
        Event("42", "\ud800"),
        Event("42", "i1", time_s="now"),  # type: ignore[arg-type]
        Event("42", "i1", values={"a": True}),
        Event("42", "i1", values={"a": 2**64}),
        Event("42", "i1", values={"a": [1]}),  # type: ignore[dict-item]
    ],
)
def test_an_event_that_cannot_be_sent_is_named(served: Addresses, event: Event) -> None:
    with QueryTowerClient(served[0]) as client, pytest.raises(InvalidRequest, match=r"events\[1\]"):
        client.record_events([Event("42", "i1"), event])


def test_what_the_service_refuses_is_named(served: Addresses) -> None:
    with QueryTowerClient(served[0], timeout_s=10) as client:
        with pytest.raises(InvalidRequest, match="milliseconds"):
            client.record_events([Event("42", "i1", time_s=1.8e12)])
        with pytest.raises(InvalidRequest, match="events"):
            client.record_events([])
        with pytest.raises(InvalidRequest, match="user_id"):
            client.forget_user("")
        with pytest.raises(InvalidRequest, match="user_id"):
            client.forget_user(42)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="user_ids"):
            client.embed([{}, {}], user_ids=["42"])
        with pytest.raises(InvalidRequest, match="user_ids"):
            client.embed([{}], user_ids="4")
        with pytest.raises(InvalidRequest, match="user_id"):
            client.embed([{}], user_ids=["x" * 2000])


def test_a_store_that_is_away_is_unavailable_for_writes_and_named_by_reads(
    served: Addresses, redis_server: RedisServer
) -> None:
    with Retriever(*served, timeout_s=10) as retriever:
        redis_server.kill()
        found = retriever.retrieve({"age": 24.0}, k=3, user_id="42", exclude_history=True)
        assert (len(found), found.stored_features, found.is_fallback) == (3, "unavailable", False)
        with pytest.raises(Unavailable, match="feature store"):
            retriever.query_tower.record_events([Event("42", "i1")])


def test_a_service_without_a_store_says_so(filled: FolderStore) -> None:
    with query_tower_service(filled) as service, QueryTowerClient(address(service), timeout_s=10) as client:
        service.wait_until_serving()
        with pytest.raises(NoFeatureStore, match="--features"):
            client.record_events([Event("42", "i1")])
        assert client.embed([{}], user_ids=["42"]).stored_features == ("not_configured",)


def test_the_command_line_records_retrieves_and_forgets(
    served: Addresses, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower, both = ["--query-tower", served[0]], ["--query-tower", served[0], "--ann", served[1]]
    assert main(["record-events", *tower, "--user-id", "42", "--item", "i1", "--item", "i2", "--type", "view"]) == 0
    assert capsys.readouterr().out == "2 events recorded, 0 were there, 0 too old\n"
    lines = [{"user_id": "42", "item_id": f"i{number}", "event_id": f"{number}", "time_s": 1.0} for number in (3, 4, 3)]
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert main(["record-events", *tower, "--file", str(events), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"recorded": 2, "already_there": 1, "too_old": 0}
    assert main(["retrieve", *both, "--user-id", "42", "--exclude-history", "--k", "300", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["stored_features"] == "used"
    assert len(answer["items"]) == 296
    assert main(["retrieve", *both, "--user-id", "nobody"]) == 0
    assert "nothing is stored of the user" in capsys.readouterr().out
    assert main(["forget-user", *tower, "42"]) == 0
    assert capsys.readouterr().out == "4 events and 0 features of the profile deleted; nothing is left\n"
    assert main(["record-events", *tower, "--user-id", "42", "--item", "gone"]) == 0
    assert capsys.readouterr().out == "1 event recorded, 0 were there, 0 too old\n"
    assert main(["retrieve", *both, "--user-id", "42"]) == 0
    said = "! the model does not know 1 of the values of --feature and of what is stored of the user: a typo, or new?\n"
    assert capsys.readouterr().out.endswith(said)
    assert main(["forget-user", *tower, "42"]) == 0
    assert capsys.readouterr().out == "1 event and 0 features of the profile deleted; nothing is left\n"
    assert main(["record-events", *tower, "--user-id", "42"]) == 2
    events.write_text('{"user_id": "42"}\n')
    assert main(["record-events", *tower, "--file", str(events)]) == 2
    assert f"{events}, line 1 is no event" in capsys.readouterr().err
