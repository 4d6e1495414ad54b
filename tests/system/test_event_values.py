"""Ratings, types and times of events: training with them, serving, and requests that carry them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.store.folder_store import FolderStore
from testbed.offline import OfflineBundle
from testbed.redis_server import NoRedis, RedisServer
from tests.harness import Running, ann_service, query_tower_service
from tests.trainer.world import KERAS_AND_NUMPY, command, write_shop
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.recipe import loading
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower_client import InvalidRequest, Retriever
from two_tower_client.query_tower import to_request

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

HISTORY = '{ name = "history", kind = "history", max_values = 10, dropout = 0.2 },'
WITH_VALUES = """{ name = "history", kind = "history", max_values = 10, dropout = 0.2, event_features = [
    { name = "stars", kind = "numeric" }, { name = "action", kind = "categorical" }, { kind = "age" }, { kind = "gap" }
] },"""
ATTRIBUTES = """
[interactions.attributes]
stars = { column = "stars", type = "int" }
action = { column = "action" }

[items]"""


@dataclass(frozen=True)
class Trained:
    store: FolderStore
    version: str
    queries: list[dict[str, Any]]
    known: list[list[str]]
    held_out: list[str]
    recall: float


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("values")
    path = write_shop(folder / "data")
    text = path.read_text().replace(HISTORY, WITH_VALUES).replace("\n[items]", ATTRIBUTES, 1)
    path.write_text(text)
    purchases = folder / "data" / "purchases.csv"
    head, *lines = purchases.read_text().split()
    actions = ("view", "buy", "")
    rows = [f"{line},{'' if at % 5 == 0 else at % 4 + 1},{actions[at % 3]}" for at, line in enumerate(lines)]
    purchases.write_text("\n".join([f"{head},stars,action", *rows]) + "\n")
    result = json.loads(
        command("train", path, "--store", folder / "store", "--run", folder / "run", "--json", "--promote", "--force")
    )
    recipe = loading.load(str(path))
    dataset = load_dataset(recipe, path.parent)
    parts = splits.split(dataset, recipe.split)
    ids, events = dataset.items.ids, parts.known
    queries, known, held_out = [], [], []
    for user in range(len(dataset.user_ids)):
        rows_of = np.flatnonzero(events.users == user)
        test = np.flatnonzero(parts.test.users == user)
        known.append([ids[item] for item in events.items[rows_of]])
        held_out.append(ids[parts.test.items[test[0]]])
        queries.append(
            {
                **{name: column[user] for name, column in dataset.user_columns.items()},
                "history": known[-1],
                "history.stars": events.attributes["stars"][rows_of].tolist(),
                "history.action": events.attributes["action"][rows_of].tolist(),
                "history.time": events.times[rows_of].tolist(),
                "request_time": float(parts.test.times[test[0]]),
            }
        )
    recall = result["metrics"]["two-tower"]["recall@10"]
    return Trained(FolderStore(folder / "store"), result["bundle_version"], queries, known, held_out, recall)


@pytest.fixture(scope="module")
def pair(trained: Trained) -> Iterator[tuple[Running, Retriever]]:
    with query_tower_service(trained.store) as query_tower, ann_service(trained.store) as ann:
        query_tower.wait_for_bundle(trained.version)
        ann.wait_for_bundle(trained.version)
        with Retriever(f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}", timeout_s=10.0) as retriever:
            yield query_tower, retriever


def test_served_answers_are_as_good_as_evaluated(trained: Trained, pair: tuple[Running, Retriever]) -> None:
    _, retriever = pair
    offline = OfflineBundle(trained.store, trained.version, trained.queries)
    found = 0
    for number, (query, known) in enumerate(zip(trained.queries, trained.known, strict=True)):
        answer = retriever.retrieve(query, k=4)
        assert offline.agrees(number, answer.item_ids, answer.scores)
        found += trained.held_out[number] in retriever.retrieve(query, k=10, exclude=known, exact=True).item_ids
    assert found / len(trained.queries) == pytest.approx(trained.recall)


def embed(pair: tuple[Running, Retriever], query: dict[str, Any]) -> np.ndarray:
    return np.array(pair[1].query_tower.embed([query]).vectors)[0]


def test_each_value_counts_and_none_is_needed(trained: Trained, pair: tuple[Running, Retriever]) -> None:
    query = trained.queries[1]
    whole = embed(pair, query)
    for name in ("history.stars", "history.action", "history.time"):
        assert np.abs(embed(pair, {**query, name: None}) - whole).max() > 1e-5, name
    ids_alone = embed(pair, {"history": query["history"]})
    assert np.linalg.norm(ids_alone) == pytest.approx(1.0, abs=1e-3)


def test_a_request_without_a_time_is_made_when_it_arrives(trained: Trained, pair: tuple[Running, Retriever]) -> None:
    query = {**trained.queries[1], "request_time": None}
    # The events are of 2023, so a second more or less does not matter, but the time of the newest event would.
    np.testing.assert_allclose(embed(pair, query), embed(pair, {**query, "request_time": time.time()}), atol=1e-5)
    newest = embed(pair, {**query, "request_time": query["history.time"][-1]})
    assert np.abs(embed(pair, query) - newest).max() > 1e-5


def test_lists_of_unequal_length_are_refused_with_both_lengths(pair: tuple[Running, Retriever]) -> None:
    query = {"history": ["p01", "p02", "p03"], "history.stars": [1, 2], "history.time": [1, 2, 3, 4]}
    with pytest.raises(InvalidRequest) as caught:
        embed(pair, query)
    rest = "one for each id of history, oldest first; or leave it out"
    assert caught.value.violations == (
        ('queries[0].features["history.stars"]', f"2 values, expected 3: {rest}"),
        ('queries[0].features["history.time"]', f"4 values, expected 3: {rest}"),
    )
    with pytest.raises(InvalidRequest, match=r"1 values, expected 0: one for each id of history"):
        embed(pair, {"history.action": ["buy"]})
    with pytest.raises(InvalidRequest, match="expected one: the feature is a scalar"):
        embed(pair, {"request_time": [1, 2]})


def test_the_status_says_which_history_a_value_belongs_to(pair: tuple[Running, Retriever]) -> None:
    (model,) = pair[0].stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=10).models
    found = {f.name: (f.kind, f.value_type, f.max_values, f.history) for f in model.features}
    strings, floats = pb.VALUE_TYPE_STRING, pb.VALUE_TYPE_FLOAT
    assert found["history"] == (pb.FEATURE_KIND_HISTORY, strings, 10, "")
    assert found["history.stars"] == (pb.FEATURE_KIND_NUMERIC, floats, 10, "history")
    assert found["history.action"] == (pb.FEATURE_KIND_CATEGORICAL, strings, 10, "history")
    assert found["history.time"] == (pb.FEATURE_KIND_TIME, floats, 10, "history")
    assert found["request_time"] == (pb.FEATURE_KIND_TIME, floats, 1, "")
    assert {f.name: f.description for f in model.features}["history.action"] == (
        'action of each event; one for each id of history, oldest first; missing: leave the list out, or "" for a '
        "single one"
    )


def test_a_user_id_alone_gives_the_embedding_of_all_values_after_load_features(
    trained: Trained, tmp_path: Path
) -> None:
    try:
        redis = RedisServer(tmp_path / "redis")
    except NoRedis as error:
        pytest.skip(str(error))
    data = trained.store.root.parent / "data"
    recipe = loading.load(str(data / "shop.toml"))
    dataset = load_dataset(recipe, data)
    events, starts = dataset.events, dataset.events.starts(len(dataset.user_ids))
    now_s = float(events.times.max()) + 1000.0
    with redis:
        tables = ("--users", data / "buyers.csv", "--interactions", data / "purchases.csv")
        command("load-features", "--store", trained.store.root, *tables, "--features", redis.url)
        with query_tower_service(trained.store, features=redis.url, features_timeout_s=10.0) as tower:
            tower.wait_until_serving()
            for user, user_id in enumerate(dataset.user_ids):
                own = slice(starts[user], starts[user + 1])
                whole = {
                    **{name: column[user] for name, column in dataset.user_columns.items()},
                    "history": [dataset.items.ids[item] for item in events.items[own]],
                    "history.stars": events.attributes["stars"][own].tolist(),
                    "history.action": events.attributes["action"][own].tolist(),
                    "history.time": events.times[own].tolist(),
                    "request_time": now_s,
                }
                requests = (to_request([whole]), to_request([{"request_time": now_s}], user_ids=[user_id]))
                answers = [tower.stub.EmbedQueries(request, timeout=20) for request in requests]
                assert list(answers[1].stored_features) == [pb.STORED_FEATURES_USED]
                assert answers[1].embeddings == answers[0].embeddings
