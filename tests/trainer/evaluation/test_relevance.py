"""Graded events: relevance of 0 to 1 as label and as weight; held-out events of relevance 0 are not relevant."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.data.profile import Summary
from trainer.errors import DataError, RecipeError
from trainer.features.schemas import learn_schemas
from trainer.model.embeddings import embed_items, embed_queries
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe, Split
from trainer.training.fit import fit, prepare

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

RECIPE = """
name = "graded"
interactions = { path = "pairs.csv", user = "user", item = "item", relevance = "relevance" }
users = { path = "users.csv", id = "user", attributes = { likes = { column = "likes" } } }
items = { path = "items.csv", id = "item", attributes = { colour = { column = "colour" } } }
split = { kind = "column", column = "part" }

[query_tower]
hidden_units = []
features = [{ name = "likes", kind = "categorical", embedding_dim = 4 }]

[item_tower]
hidden_units = []
features = [{ name = "colour", kind = "categorical", embedding_dim = 4 }]
"""
TRAINING = {"dimension": 4, "epochs": 20, "batch_size": 64, "learning_rate": 0.02, "negatives": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with 30 users and 20 items, each red or blue; every user has events with all items, of relevance 1 or 0.

    The relevance is 1 if the item has the colour that the user likes.
    """
    colours = ("red", "blue")
    (tmp_path / "users.csv").write_text("user,likes\n" + "".join(f"u{u},{colours[u % 2]}\n" for u in range(30)))
    (tmp_path / "items.csv").write_text("item,colour\n" + "".join(f"i{i},{colours[i % 2]}\n" for i in range(20)))
    rows = ["user,item,relevance,part"]
    for user, item in itertools.product(range(30), range(20)):
        part = {0: "valid", 1: "valid", 2: "test", 3: "test"}.get(item, "train")
        rows.append(f"u{user},i{item},{float(user % 2 == item % 2)},{part}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def recipe(without_relevance: bool = False, **keys: Any) -> Recipe:
    raw = tomllib.loads(RECIPE)
    if without_relevance:
        del raw["interactions"]["relevance"]
    return loading.parse({**raw, "training": {**TRAINING, **keys}}, "graded")


def lead(of: Recipe, folder: Path) -> float:
    """Trains, and returns the mean score of items in the user's colour minus that of the other items."""
    dataset = load_dataset(of, folder)
    parts = splits.split(dataset, of.split)
    train = parts.to_fit_on(parts.train)
    schemas = learn_schemas(of, dataset, train)
    towers = fit(of, dataset, schemas, train, validate=None).towers
    queries = embed_queries(towers[0], schemas, {"likes": ["red", "blue"]}, 2)
    is_blue = np.array([colour == "blue" for colour in dataset.item_column("colour")])
    scores = queries @ embed_items(towers[1], schemas, dataset).T  # [2, 20]
    means = np.stack([scores[:, ~is_blue].mean(axis=1), scores[:, is_blue].mean(axis=1)])  # [2, 2]
    return float(np.trace(means) - (means[0, 1] + means[1, 0])) / 2


@pytest.mark.parametrize(
    "loss",
    [
        {"loss": "bce"},
        {"loss": "gbce"},
        {"loss": "sampled_softmax"},
        {"loss": "sampled_softmax", "bce_weight": 0.5},
        {"loss": "in_batch_softmax"},
        {"loss": "full_softmax"},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_every_loss_learns_from_grades_alone(folder: Path, loss: dict[str, Any]) -> None:
    assert lead(recipe(**loss), folder) > 0.3


def test_without_grades_there_is_nothing_to_learn(folder: Path) -> None:
    assert abs(lead(recipe(without_relevance=True, loss="bce"), folder)) < 0.15


def test_held_out_pairs_of_relevance_0_are_no_answers(folder: Path) -> None:
    of = recipe()
    parts = splits.split(load_dataset(of, folder), of.split)
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [30 * 8, 30, 30]
    assert min(part.relevance.min() for part in (parts.train, parts.valid, parts.test)) == 1.0
    assert parts.irrelevant is not None
    assert (len(parts.irrelevant), parts.irrelevant.relevance.max()) == (30 * 8, 0.0)
    assert len(parts.to_fit_on(parts.train)) == 30 * 16
    notes = " ".join(Summary.of(of, splits.Data(load_dataset(of, folder), parts)).notes)
    assert "300 interactions have relevance 0" in notes
    assert "60 of them are among the held-out events" in notes


def test_the_last_answers_are_held_out_whatever_comes_behind(folder: Path) -> None:
    graded = [("a", 1), ("b", 0), ("c", 1), ("d", 0.5), ("e", 0), ("f", 1), ("g", 0)]
    rows = ["user,item,relevance,part", *(f"u0,{item},{grade},train" for item, grade in graded)]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    (folder / "items.csv").write_text("item,colour\n" + "".join(f"{item},red\n" for item, _ in graded))
    dataset = load_dataset(recipe(), folder)
    parts = splits.split(dataset, Split("leave_last_one_out"))
    assert parts.irrelevant is not None
    held = (parts.train, parts.valid, parts.test, parts.irrelevant)
    assert ["".join(dataset.items.ids[row] for row in part.items) for part in held] == ["ac", "d", "f", "b"]


def test_grades_of_0_alone_leave_nothing_to_train_on(folder: Path) -> None:
    path = folder / "pairs.csv"
    path.write_text(path.read_text().replace(",1.0,train", ",0.0,train"))
    of = recipe()
    with pytest.raises(DataError, match=r"the train part is empty \(600 events, 60 of relevance above 0"):
        splits.split(load_dataset(of, folder), of.split)


def test_what_was_shown_before_it_was_taken_counts_as_taken(folder: Path) -> None:
    rows = ["user,item,relevance,part"]
    for user, item in itertools.product(range(4), range(5)):
        rows += [f"u{user},i{item},0,train", f"u{user},i{item},1,{('train', 'valid', 'test')[max(0, item - 2)]}"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    for keys in ({}, {"novel_targets": True}, {"event_order": "shuffled"}):
        of = recipe(**keys)
        dataset = load_dataset(of, folder)
        parts = splits.split(dataset, of.split)
        assert parts.train.pair_count == len(parts.train) == 12
        train = parts.to_fit_on(parts.train)
        examples, _ = prepare(of, dataset, learn_schemas(of, dataset, train), train)
        labels = np.concatenate([batch["label"] for batch in examples.epoch(0)])
        assert (len(labels), labels.sum()) == (32, 12), keys


def test_a_history_and_pairs_that_do_not_match_are_refused(folder: Path) -> None:
    raw = recipe().to_json()
    raw["query_tower"]["features"] += [{"name": "history", "kind": "history"}]
    of = loading.parse(raw, "graded")
    dataset = load_dataset(of, folder)
    train = (parts := splits.split(dataset, of.split)).to_fit_on(parts.train)
    with pytest.raises(DataError, match="240 interactions have relevance 0, and the query tower reads the history"):
        fit(of, dataset, learn_schemas(of, dataset, train), train, validate=None)


@pytest.mark.parametrize("bad", ["-0.1", "3"])
def test_a_relevance_outside_0_to_1_is_refused_by_row(folder: Path, bad: str) -> None:
    path = folder / "pairs.csv"
    lines = path.read_text().splitlines()
    lines[5] = f"u0,i4,{bad},train"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"pairs.csv, column 'relevance': line 6: .* is not a relevance; give"):
        load_dataset(recipe(), folder)


def test_a_mix_of_losses_goes_with_the_sampled_softmax() -> None:
    with pytest.raises(RecipeError, match=r"training\.bce_weight goes with loss sampled_softmax, not gbce"):
        recipe(loss="gbce", bce_weight=0.5)
