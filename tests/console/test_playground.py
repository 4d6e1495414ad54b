"""What the playground answers, beside what the client answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.settings import Pair as Addresses
from testbed.redis_server import RedisServer
from tests.console.conftest import World
from tests.console.world import HOSTILE, Visitor, settings_for, visiting
from tests.harness import ann_service, query_tower_service
from tests.worlds import GOLDEN_COLUMNS, wait_for
from two_tower_client import Diversify, Event, Retriever, filters

USER = {"age": 30, "watched": ["i1", "i2", "i3"]}
FORM = {"age": "30", "gender": "", "watched": "i1,i2,i3"}
CHEAP = filters.all_of(filters.in_range("year", min=1990), filters.not_(filters.equals("genres", "comedy")))


@pytest.fixture(scope="module")
def visitor(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    users = tmp_path_factory.mktemp("users") / "users.jsonl"
    users.write_text(json.dumps({"user_id": "42", "features": USER}) + "\n")
    with visiting(settings_for(world.store, world.pair, users=users)) as visitor:
        wait_for(lambda: len(open_bundles(visitor)) == 2, "both bundles are open")
        yield visitor


def open_bundles(visitor: Visitor) -> set[str]:
    replicas = visitor.get("/api/fleet").json()["pairs"][0]["replicas"]
    return set.intersection(*({each["bundle"] for each in replica["open"]} for replica in replicas))


def ask(visitor: Visitor, **question: Any) -> dict[str, Any]:
    answer = visitor.post("/api/recommend", json={"bundles": ["0 live"], "values": FORM, "k": 5, **question})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(visitor: Visitor, **question: Any) -> str:
    answer = visitor.post("/api/recommend", json={"bundles": ["0 live"], "values": FORM, **question})
    assert answer.status_code in (400, 502), answer.text
    error: str = answer.json()["error"]
    return error


@pytest.fixture(scope="module")
def retriever(world: World) -> Iterator[Retriever]:
    query_towers, anns = ([each.address for each in side] for side in (world.pair.query_towers, world.pair.anns))
    with Retriever(query_towers, anns, timeout_s=10) as retriever:
        yield retriever


def test_answers_as_the_client_does(world: World, visitor: Visitor, retriever: Retriever) -> None:
    expected = retriever.retrieve(USER, k=5, exclude=USER["watched"], return_attributes=["title", "genres"])
    (result,) = ask(visitor, exclude_history=True)["results"]
    assert result["bundle"] == world.live
    assert [item["id"] for item in result["items"]] == list(expected.item_ids)
    assert [item["score"] for item in result["items"]] == pytest.approx(expected.scores)
    titles = [title or "" for title in expected.attributes["title"]]
    assert [item["title"] for item in result["items"]] == titles
    genres = [", ".join(values) for values in expected.attributes["genres"] if values]
    assert [item["attributes"]["genres"] for item in result["items"] if "genres" in item["attributes"]] == genres


def test_filters_exclusions_and_diversity_are_those_of_the_client(visitor: Visitor, retriever: Retriever) -> None:
    diverse = Diversify(0.5, {"genres": 2})
    expected = retriever.retrieve(USER, k=5, filter=CHEAP, exclude=["i7"], diversify=diverse)
    (result,) = ask(
        visitor,
        conditions=["year>=1990", "genres!=comedy"],
        exclude=["i7"],
        diversity=0.5,
        at_most=["genres=2"],
    )["results"]
    assert [item["id"] for item in result["items"]] == list(expected.item_ids)
    assert result["candidates"] == expected.candidate_count


def test_shows_the_newest_of_the_history_first_with_titles(visitor: Visitor) -> None:
    history = ask(visitor, values={"watched": "i2,gone,i1"})["history"]
    assert history["ids"] == ["i1", "gone", "i2"]
    assert [(item["item_id"], item["title"], item["known"]) for item in history["items"]] == [
        ("i1", HOSTILE, True),
        ("gone", None, False),
        ("i2", "Title 2", True),
    ]


def test_a_user_of_the_feature_store_needs_no_features(world: World, redis_server: RedisServer) -> None:
    with (
        query_tower_service(world.store, features=redis_server.url, features_timeout_s=5.0) as query_tower,
        ann_service(world.store) as ann,
    ):
        query_tower.wait_for_bundle(world.live)
        ann.wait_for_bundle(world.live)
        pair = Addresses("services", f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}")
        with (
            visiting(settings_for(world.store, None, pairs=(pair,))) as visitor,
            Retriever(pair.query_tower, pair.ann, timeout_s=10) as retriever,
        ):
            retriever.query_tower.record_events([Event("42", "i7", time_s=1.0), Event("42", "i9", time_s=2.0)])
            answer = ask(visitor, values={}, user_id="42", exclude_history=True)
            assert [item["item_id"] for item in answer["history"]["items"]] == ["i9", "i7"]
            expected = retriever.retrieve({"watched": ["i7", "i9"]}, k=5, exclude=["i7", "i9"])
            assert [item["id"] for item in answer["results"][0]["items"]] == list(expected.item_ids)
            assert ask(visitor, values={}, user_id="43")["results"][0]["stored_features"] == "unknown_user"


def test_says_that_the_services_have_no_feature_store(visitor: Visitor) -> None:
    assert ask(visitor, user_id="42")["results"][0]["stored_features"] == "not_configured"


def test_names_what_the_model_does_not_know(visitor: Visitor) -> None:
    (result,) = ask(visitor, values={"watched": "gone,i1", "gender": "no"})["results"]
    assert sorted(result["unknown"]) == ["gender=no", "watched=gone"]


def test_two_bundles_of_different_models_side_by_side(world: World, visitor: Visitor) -> None:
    page = visitor.get("/playground").text
    assert f'<option value="0 live">{world.live} (live)</option>' in page
    assert f'<option value="0 {world.old}">{world.old} (previous)</option>' in page
    live, old = ask(visitor, bundles=["0 live", f"0 {world.old}"])["results"]
    assert (live["bundle"], old["bundle"]) == (world.live, world.old)
    assert live["model"] != old["model"]
    assert [item["id"] for item in live["items"]] != [item["id"] for item in old["items"]]


def test_two_pairs_of_services_side_by_side(world: World, visitor: Visitor) -> None:
    settings = settings_for(world.store, world.pair)
    other = Addresses("other services", world.pair.query_towers[0].address, world.pair.anns[0].address)
    with visiting(settings_for(world.store, world.pair, pairs=(*settings.pairs, other))) as both:
        first, second = ask(both, bundles=["0 live", "1 live"])["results"]
        assert first["items"] == second["items"]
        assert second["label"].startswith("other services: ")
        assert len(both.get("/api/fleet").json()["pairs"]) == 2


def test_json_is_sent_as_it_is_and_what_a_model_does_not_read_is_said(visitor: Visitor) -> None:
    text = json.dumps({**USER, "size": 4})
    (result,) = ask(visitor, json=text, exclude_history=True)["results"]
    (same,) = ask(visitor, exclude_history=True)["results"]
    assert result["items"] == same["items"]
    assert result["left_out"] == ["size"]


def test_examples_are_the_golden_queries_of_the_bundle(visitor: Visitor) -> None:
    examples = visitor.get("/api/examples").json()["examples"]
    expected = [{n: c[row] for n, c in GOLDEN_COLUMNS.items() if c[row] not in (None, [])} for row in range(4)]
    assert [example["features"] for example in examples] == expected
    assert examples[0]["label"] == "Example 1: 25.0, f, 7, watched of 5"


def test_finds_a_user_of_the_file(visitor: Visitor) -> None:
    assert visitor.post("/api/user", json={"user_id": "42"}).json() == {"features": USER}
    assert "there is no user '43' among the 1" in visitor.post("/api/user", json={"user_id": "43"}).json()["error"]
    assert '<option value="42">' in visitor.get("/playground").text


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"bundles": ["0 20260101T000000Z-abcdef"]}, "no longer open"),
        ({"bundles": []}, "name one or two"),
        ({"bundles": ["0 live"] * 3}, "name one or two"),
        ({"bundles": [["0 live"]]}, "name one or two"),
        ({"values": {"age": "old"}}, "'age' takes a number"),
        ({"values": None}, "values: are missing"),
        ({"json": "{"}, "not JSON"),
        ({"conditions": ["colour=red"]}, "items have no attribute 'colour'"),
        ({"conditions": ["year>=x"]}, "'x' is not a number"),
        ({"at_most": ["genres=x"]}, "not name=count"),
        ({"ranking": "lexical"}, "is empty"),
        ({"ranking": "fused", "text": "x"}, "lexical"),
        ({"ranking": "best"}, "expected embedding"),
        ({"k": 1000}, "expected 1 to 100"),
    ],
)
def test_says_what_is_wrong_with_a_question(visitor: Visitor, question: dict[str, Any], message: str) -> None:
    assert message in refusal(visitor, **question)


def test_says_which_service_does_not_answer(tmp_path: Path, world: World) -> None:
    with visiting(settings_for(world.store, None)) as visitor:
        assert "unavailable" in visitor.get("/playground").text
        replicas = visitor.get("/api/fleet").json()["pairs"][0]["replicas"]
        assert [bool(replica["error"]) for replica in replicas] == [True, True]
        assert "unavailable" in refusal(visitor)
