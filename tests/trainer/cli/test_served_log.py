"""The loop closes: services log what they used and returned, and a training reads nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from testbed.redis_server import RedisServer
from tests.harness import ann_service, query_tower_service
from tests.trainer.world import KERAS_AND_NUMPY, RECIPE, Shop, command
from trainer.data.dataset import load_dataset
from trainer.recipe import loading
from two_tower_client import Retrieval, Retriever
from two_tower_client.events import Event

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

SERVED = """[interactions]
path = "log"
format = "served"

[interactions.attributes]
age = { column = "features.age", type = "float" }
gender = { column = "features.gender" }
"""
LIMITS = {"features_timeout_s": 10.0, "features_write_timeout_s": 10.0}


def write_recipe(folder: Path, shop: Shop, *, history: bool) -> Path:
    """Writes the shop's recipe, whose interactions and users come from the served log alone, and its items."""
    (folder / "products.csv").write_bytes((shop.recipe.parent / "products.csv").read_bytes())
    before, rest = RECIPE.split("[interactions]")
    items = rest[rest.index("[items]") : rest.index("[users]")]
    towers = rest[rest.index("[query_tower]") :]
    if not history:
        towers = "".join(line for line in towers.splitlines(keepends=True) if 'name = "history"' not in line)
    path = folder / f"served-{history}.toml"
    path.write_text(before + SERVED + items + towers)
    return path


def test_what_was_served_is_trained_on(shop: Shop, redis_server: RedisServer, tmp_path: Path) -> None:
    log = {"served_log": tmp_path / "log"}
    with (shop.recipe.parent / "purchases.csv").open() as file:
        past = [
            Event(row["buyer"], row["product"], "buy", float(row["bought_at"]) - 1e6, event_id=f"past-{number:06}")
            for number, row in enumerate(csv.DictReader(file))
        ]
    with (shop.recipe.parent / "buyers.csv").open() as file:
        buyers = {row["buyer"]: row for row in csv.DictReader(file)}
    shown: dict[str, Retrieval] = {}
    with (
        query_tower_service(shop.store, features=redis_server.url, **LIMITS, **log) as tower,
        ann_service(shop.store, **log) as ann,
    ):
        for service in (tower, ann):
            service.wait_until_serving()
        with Retriever(f"127.0.0.1:{tower.port}", f"127.0.0.1:{ann.port}", timeout_s=20.0) as retriever:
            retriever.query_tower.record_events(past)
            retriever.query_tower.record_events(past[:100])  # as a client that had no answer would
            for user, row in buyers.items():
                profile: dict[str, Any] = {"age": float(row["age"]) if row["age"] else None, "gender": row["gender"]}
                shown[user] = retriever.retrieve(profile, 5, user_id=user, exclude_history=True)
                third = shown[user].item_ids[2]
                retriever.query_tower.record_events([Event(user, third, "click", event_id="click")])
    assert {path.parent.name for path in (tmp_path / "log").glob("*/*.parquet")} == {"queries", "events", "lists"}
    # The features that were used: the profile of the request, and the history of the feature store.
    queries = pl.read_parquet(tmp_path / "log" / "queries")
    assert queries["user_id"].to_list() == list(buyers)
    used = json.loads(queries["features"][1])
    assert (used["age"], used["gender"]) == ([21.0], ["m"])
    assert used["history"] == [event.item_id for event in past if event.user_id == "u01"][-11:]  # one more than is read

    recipe_path = write_recipe(tmp_path, shop, history=False)
    dataset = load_dataset(loading.load(str(recipe_path)), tmp_path)
    events, items = dataset.events, dataset.items.ids
    for row, (user, answer) in enumerate(shown.items()):
        own = events.users == row
        assert dataset.user_ids[row] == user
        positive = [items[item] for item in events.items[own & (events.relevance == 1)]]
        assert positive == [event.item_id for event in past if event.user_id == user] + [answer.item_ids[2]]
        passed = own & (events.relevance == 0)
        assert [items[item] for item in events.items[passed]] == list(answer.item_ids[:2])
        last = int(np.flatnonzero(own)[-1])
        age = buyers[user]["age"]
        assert (events.attributes["age"][last], events.attributes["gender"][last]) == (
            float(age) if age else None,
            buyers[user]["gender"],
        )

    # A history is made of the items that a user interacted with, so none of those that were passed over is left.
    recipe_path = write_recipe(tmp_path, shop, history=True)
    dataset = load_dataset(loading.load(str(recipe_path)), tmp_path)
    assert len(dataset.events.items) == len(past) + len(shown)
    assert any(f"{2 * len(shown)} items that were passed over are not trained on" in note for note in dataset.notes)
    told = command(
        "train", recipe_path, "--store", tmp_path / "store", "--run", tmp_path / "run", "--json", "--no-baselines"
    )
    assert json.loads(told)["bundle_version"]
