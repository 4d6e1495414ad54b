"""Comparison of a new model with the live bundle, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from retrieval.bundle.layout import VECTORS
from retrieval.store.folder_store import FolderStore
from tests.worlds import SCHEMA, tower, write_bundle
from trainer.data import splits
from trainer.data.dataset import Dataset, load_dataset
from trainer.data.splits import Data
from trainer.evaluation.comparison import compare
from trainer.evaluation.deployed_queries import NotComparable, embed_users, open_bundle
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

SHOP = """
name = "hand"
[interactions]
path = "interactions.csv"
user = "user"
item = "item"
[users]
path = "users.csv"
id = "user"
[users.attributes]
age = { column = "age", type = "float" }
gender = { column = "gender" }
device = { column = "device", type = "int" }
likes = { column = "likes", type = "string_list" }
[query_tower]
features = [{ name = "age", kind = "numeric" }]
[item_tower]
features = [{ name = "item_id", kind = "categorical" }]
"""


@pytest.fixture
def hand(tmp_path: Path) -> tuple[Recipe, Dataset, splits.Parts]:
    """Recipe, data set and parts; each user u of 0 to 3 has events with items 0, 10 + u, 20 + u, 30 + u, in order."""
    folder = tmp_path / "hand"
    folder.mkdir()
    events = [f"u{u},i{item}" for u in range(4) for item in (0, 10 + u, 20 + u, 30 + u)]
    (folder / "interactions.csv").write_text("\n".join(["user,item", *events]) + "\n")
    users = ["u0,25,f,7,comedy", "u1,,m,8,", "u2,61,,,drama|horror", "u3,33,x,9,"]
    (folder / "users.csv").write_text("\n".join(["user,age,gender,device,likes", *users]) + "\n")
    chosen = loading.parse(tomllib.loads(SHOP), "hand")
    dataset = load_dataset(chosen, folder)
    return chosen, dataset, splits.split(dataset, chosen.split)


def test_live_bundle_is_asked_with_its_own_features(hand: Any, store: FolderStore) -> None:
    chosen, dataset, parts = hand
    version = write_bundle(store).bundle_version
    live = open_bundle(store, version, chosen, dataset)
    users = np.arange(4)
    # Its schema calls the history "watched"; u2 met i0, i12 and i22 before the test.
    columns = {
        "age": [25.0, None, 61.0, 33.0],
        "gender": ["f", "m", None, "x"],
        "device": [7, 8, None, 9],
        "likes": [["comedy"], [], ["drama", "horror"], []],
        "watched": [["i0", f"i{10 + u}", f"i{20 + u}"] for u in range(4)],
    }
    runner = Interpreter(model_content=tower(1).tflite).get_signature_runner("serve")
    expected = runner(**SCHEMA.encode(columns, 4))["embedding"]
    np.testing.assert_array_equal(embed_users(live, chosen, dataset, parts.known, users, parts.test), expected)


def test_comparison_is_that_worked_out_by_hand(hand: Any, store: FolderStore) -> None:
    chosen, dataset, parts = hand
    version = write_bundle(store).bundle_version
    live = open_bundle(store, version, chosen, dataset)
    users = np.arange(4)
    queries = embed_users(live, chosen, dataset, parts.known, users, parts.test)
    # 13 items of the data set are in the bundle of 300; ask a "new" model that has the same space and only these.
    by_id = {item_id: row for row, item_id in enumerate(live.item_ids)}
    vectors = live.vectors[[by_id[item_id] for item_id in dataset.items.ids]]
    found = compare(store, chosen, Data(dataset, parts), users=users, queries=queries, vectors=vectors)
    assert (found.live, found.not_comparable, found.query_count) == (version, "", 4)
    assert len(dataset.items.ids) == 13
    assert (found.live_item_count, found.lost_item_count) == (300, 287)
    assert found.lost_item in set(live.item_ids) - set(dataset.items.ids)
    assert found.never_retrieved == 0.0
    # Of the live top 10 of 300 items, the new top 10 can hold those among the 13 that the data set has.
    old_top = np.argsort(-(queries @ live.vectors.T), axis=1)[:, :10]
    new_top = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    ids = dataset.items.ids
    shares = [
        len({live.item_ids[a] for a in old} & {ids[b] for b in new}) / 10
        for old, new in zip(old_top, new_top, strict=True)
    ]
    assert found.overlap_at_10 == pytest.approx(np.mean(shares))
    # log(1 + 4) for i0, which all four users had before the test, log(1 + 1) for i1x and i2x, log(1) for the test's.
    counts = {item: 4 if item == "i0" else int(item[1] != "3") for item in ids}
    expected = np.mean([[np.log(1 + counts[ids[b]]) for b in new] for new in new_top])
    assert found.mean_log_popularity == pytest.approx(expected)
    # Its metrics on the same data: each user has one relevant item of 10 candidates (13 less 3 known).
    scores = queries @ vectors.T
    ranks = []
    for user in users:
        known = [ids.index(i) for i in ("i0", f"i{10 + user}", f"i{20 + user}")]
        target = ids.index(f"i{30 + user}")
        better = [row for row in range(13) if row not in known and scores[user, row] > scores[user, target]]
        ranks.append(len(better) + 1)
    assert found.live_metrics["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    counting = dataclasses.replace(chosen, split=dataclasses.replace(chosen.split, repeats=True))
    found = compare(store, counting, Data(dataset, parts), users=users, queries=queries, vectors=vectors)
    targets = [ids.index(f"i{30 + user}") for user in users]  # now all 13 items compete
    ranks = [int((scores[user] > scores[user, target]).sum()) + 1 for user, target in zip(users, targets, strict=True)]
    assert found.live_metrics["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_live_bundle_that_cannot_be_asked_is_told_and_is_no_failure(hand: Any, store: FolderStore) -> None:
    chosen, dataset, parts = hand
    raw = chosen.to_json()
    del raw["users"]["attributes"]["gender"]
    without = loading.parse(raw, "without gender")
    raw["users"]["attributes"]["gender"] = {"column": "gender", "type": "string_list"}
    other_type = loading.parse(raw, "other type")
    version = write_bundle(store).bundle_version
    with pytest.raises(NotComparable, match="'gender', which this recipe's users do not have"):
        open_bundle(store, version, without, dataset)
    with pytest.raises(NotComparable, match="'gender' is categorical, this recipe's is of type string_list"):
        open_bundle(store, version, other_type, dataset)
    arguments = {"users": np.arange(4), "queries": np.eye(4, dtype=np.float32), "vectors": np.eye(13, 4)}
    found = compare(store, without, Data(dataset, parts), **arguments)
    assert (found.live, found.live_metrics, found.overlap_at_10) == (version, {}, None)
    assert "do not have" in found.not_comparable
    assert found.lost_item_count == 287
    path = store.path(version) / VECTORS
    path.write_bytes(path.read_bytes()[:-4])
    assert "damaged" in compare(store, chosen, Data(dataset, parts), **arguments).not_comparable
    empty = FolderStore(store.root / "other")
    assert compare(empty, chosen, Data(dataset, parts), **arguments).not_comparable == "no bundle is live"
