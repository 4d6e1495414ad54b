"""Reading recipes: the shipped ones, and error messages that name the wrong key."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.world import RECIPE, recipe
from trainer.errors import RecipeError
from trainer.recipe import loading


@pytest.mark.parametrize("name", ["amazon_beauty", "complete_journey", "complete_journey_repeats", "movielens_100k"])
def test_shipped_recipes_can_be_read(name: str) -> None:
    assert name in loading.shipped()
    read = loading.load(name)
    assert read.name == name
    assert read.download is not None or read.origin


@pytest.mark.parametrize("name", ["amazon_beauty", "complete_journey", "complete_journey_repeats", "movielens_100k"])
def test_resolved_recipe_reads_back_the_same(name: str) -> None:
    read = loading.load(name)
    assert loading.parse(read.to_json(), "again") == read


def test_unknown_recipe_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError,
        match="no recipe 'films': expected one of amazon_beauty, complete_journey, complete_journey_repeats, "
        "movielens_100k, product_search, or",
    ):
        loading.load("films")
    with pytest.raises(RecipeError, match="no recipe"):
        loading.load(str(tmp_path))


def test_text_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = \n")
    with pytest.raises(RecipeError, match=r"mine\.toml: not valid TOML: .*line 1"):
        loading.load(str(path))


@pytest.mark.parametrize("text", ["seed = " + "9" * 5000, "a = " + "[" * 9000], ids=["long number", "deep array"])
def test_toml_beyond_the_limits_of_its_parser_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.toml: not valid TOML"):
        loading.load(str(path))


def test_path_that_no_file_can_have_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'a\\x00b'"):
        loading.load("a\0b")


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("training", "epoch", 3),
        ("training", "epochs", "many"),
        ("training", "epochs", 0),
        ("training", "batch_size", 1),
        ("training", "learning_rate", -1.0),
        ("training", "temperature", 0.0),
        ("training", "temperature", float("inf")),
        ("training", "history_lag", float("inf")),
        ("gates", "min_gain_over_popularity", float("nan")),
        ("training", "dimension", 1),
        ("interactions", "separator", ";;"),
        ("interactions", "colour", "red"),
        ("split", "kind", "newest"),
        ("split", "test_share", 0.5),
        ("index", "trees", []),
        ("index", "min_recall_at_100", 1.5),
        ("items", "idd", "product"),
    ],
)
def test_bad_key_is_named(table: str, key: str, value: Any) -> None:
    raw = tomllib.loads(RECIPE)
    raw.setdefault(table, {})[key] = value
    with pytest.raises(RecipeError, match=rf"mine: 1 key to mend .*\n  {table}\.{key}"):
        loading.parse(raw, "mine")


def test_every_bad_key_is_named_at_once() -> None:
    raw = tomllib.loads(RECIPE)
    raw["sead"] = 1
    raw["training"]["epochs"] = -1
    del raw["interactions"]["path"]
    with pytest.raises(RecipeError) as caught:
        loading.parse(raw, "mine")
    for key in ("sead", "training.epochs", "interactions.path"):
        assert key in str(caught.value)


def test_bad_seed_is_named() -> None:
    with pytest.raises(RecipeError, match="seed"):
        loading.parse({**tomllib.loads(RECIPE), "seed": -1}, "mine")


@pytest.mark.parametrize(
    ("tower", "feature", "message"),
    [
        ("query_tower", {"name": "height", "kind": "numeric"}, r"feature height: no such attribute; .*\[users\."),
        ("item_tower", {"name": "age", "kind": "numeric"}, r"feature age: no such attribute; .*\[items\."),
        ("query_tower", {"name": "gender", "kind": "numeric"}, "feature gender: kind numeric reads type int or float"),
        ("query_tower", {"name": "age", "kind": "categorical"}, "feature age: kind categorical reads type string or"),
        ("item_tower", {"name": "title", "kind": "multi_categorical"}, "feature title: .* reads type string_list"),
        ("item_tower", {"name": "seen", "kind": "history"}, "feature seen: a history belongs to the query tower"),
        ("item_tower", {"name": "item_id", "kind": "numeric"}, "feature item_id: an id is categorical, not numeric"),
        ("item_tower", {"name": "year", "kind": "embedding"}, r"item_tower\.features\['year'\]: Input tag 'embedding'"),
        (
            "item_tower",
            {"name": "year", "kind": "numeric", "hidden": 1},
            r"item_tower\.features\['year'\]\.hidden: unknown key",
        ),
        ("query_tower", {"name": "a b", "kind": "numeric"}, r"query_tower\.features\['a b'\]\.name: "),
    ],
)
def test_bad_feature_is_named(tower: str, feature: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(**{tower: {"features": [feature]}})
    assert tower in str(caught.value)


def test_feature_names_are_distinct() -> None:
    feature = {"name": "year", "kind": "numeric"}
    with pytest.raises(RecipeError, match=r"item_tower: feature names .* are not distinct"):
        recipe(item_tower={"features": [feature, feature]})


def test_a_tower_needs_a_feature() -> None:
    with pytest.raises(RecipeError, match=r"item_tower\.features"):
        recipe(item_tower={"features": []})


def test_keys_that_need_another_say_so() -> None:
    with pytest.raises(RecipeError, match=r"interactions\.min_rating needs interactions\.rating"):
        recipe(interactions={"min_rating": 3})
    with pytest.raises(RecipeError, match=r"global_temporal needs interactions\.time"):
        recipe(interactions={"time": None}, split={"kind": "global_temporal"})
    with pytest.raises(RecipeError, match="item_id is the id itself"):
        recipe(
            items={"attributes": {"item_id": {"column": "product"}}},
            item_tower={"features": [{"name": "item_id", "kind": "categorical"}]},
        )


def test_annoy_holds_float32_alone() -> None:
    with pytest.raises(RecipeError, match=r"index\.storage is int8, and annoy holds float32 alone; set index\.kind to"):
        recipe(index={"storage": "int8"})
    assert recipe(index={"storage": "int8", "kind": "faiss_ivf"}).index.file_kind == "faiss_ivf_int8"


def test_a_lexical_index_needs_texts() -> None:
    with pytest.raises(RecipeError, match=r"search\.serve needs a text of the items; name attributes under \[search\]"):
        recipe(search={"attributes": [], "serve": True})
    assert recipe(search={"attributes": [], "serve": False}).search.serve is False


def test_a_key_of_another_part_is_called_so_and_nothing_else_is_said() -> None:
    raw = tomllib.loads(RECIPE)
    raw["query_tower"]["features"] = [{"name": "history", "kind": "history", "embedding_dim": 3}]
    place = r"query_tower\.features\['history'\]\.embedding_dim: not a key of this part"
    with pytest.raises(RecipeError, match=rf"mine: 1 key to mend .*\n  {place}"):
        loading.parse(raw, "mine")


def test_a_misspelt_key_is_answered_with_the_nearest_one() -> None:
    raw = loading.load("movielens_100k").to_json()
    raw["training"]["epoch"] = 3
    with pytest.raises(RecipeError, match=r"training\.epoch: unknown key; did you mean epochs\?"):
        loading.parse(raw, "mine")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"queue": 10, "loss": "full_softmax"}, "training.queue goes with loss in_batch_softmax, not full_softmax"),
        ({"log_q": "streaming", "loss": "mixed_softmax"}, "streaming"),
        ({"hard_negatives": 4}, "training.hard_negatives goes with loss sampled_softmax, not in_batch_softmax"),
        ({"loss": "gbce", "sampling": "popularity"}, "uniform"),
    ],
)
def test_keys_of_the_training_that_do_not_go_together_are_refused(training: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe(training=training)


def test_a_transformer_beside_another_history_is_refused() -> None:
    histories = [
        {"name": "history", "kind": "history", "encoder": "transformer"},
        {"name": "recent", "kind": "history", "max_values": 3},
    ]
    with pytest.raises(RecipeError, match=r"has to be the only one.*\['history', 'recent'\]"):
        recipe(query_tower={"features": histories})
    assert recipe(query_tower={"features": histories[:1]}).query_tower.features[0].name == "history"


def test_a_bad_key_of_a_feature_is_placed_by_the_name_of_the_feature() -> None:
    features = [{"name": "history", "kind": "history"}, {"name": "age", "kind": "categorical", "embeding_dim": 3}]
    with pytest.raises(RecipeError, match=r"query_tower\.features\['age'\]\.embeding_dim: unknown key"):
        recipe(query_tower={"features": features})


def test_a_value_that_is_not_allowed_is_repeated() -> None:
    with pytest.raises(RecipeError, match=r"training\.loss: .*'full_softmax'.*, not 'hinge'"):
        recipe(training={"loss": "hinge"})


def test_differences_of_two_recipes_name_the_keys() -> None:
    before, now = recipe(training={"epochs": 3}).to_json(), recipe(training={"epochs": 4, "loss": "bce"}).to_json()
    assert loading.differences(before, now) == [
        "training.epochs was 3 and is 4", "training.loss was 'in_batch_softmax' and is 'bce'"
    ]  # fmt: skip
    assert loading.differences(before, before) == []


def test_other_tables_of_the_same_form_can_be_named(tmp_path: Path) -> None:
    own = recipe()
    other = loading.with_tables(own, interactions=tmp_path / "other.csv")
    assert other.interactions.path == str(tmp_path / "other.csv")
    assert (other.items, other.users) == (own.items, own.users)
    with pytest.raises(
        RecipeError, match=r"--users .*: the recipe shop has no part \[users\]; add it, or leave it out"
    ):
        loading.with_tables(dataclasses.replace(own, users=None), users=tmp_path / "people.csv")
