"""The towers and their layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.trainer.model.skew import queries_both_ways
from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer.features.schemas import Schemas, learn_schemas
from trainer.model import towers
from trainer.model.feature_dropout import PresenceDropout, SlotDropout, ValueDropout
from trainer.model.towers import MaskedMean
from trainer.recipe.recipe import Recipe

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

RECIPE = recipe(training={"dimension": 6})
QUERIES = {
    "history": [["p1", "p2"], ["p2", "p1", "p1"], ["p3", "unheard-of"]],
    "age": [30.0, 50.0, None],
    "gender": ["f", "m", None],
}
ITEMS = {"item_id": ["p1", "p2", "new"], "year": [1990, None, 2020], "genres": [["drama"], [], ["drama", "comedy"]]}


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return schemas_of(RECIPE)


@pytest.fixture(scope="module")
def built(schemas: Schemas) -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(4)
    built_query, built_item = towers.build(RECIPE, schemas)
    query, item = built_query.model, built_item.model
    for weight in (*query.trainable_weights, *item.trainable_weights):  # biases start at zero: make every part count
        weight.assign_add(np.random.default_rng(len(weight.shape)).normal(size=weight.shape) * 0.3)
    return query, item


def schemas_of(of: Recipe) -> Schemas:
    bought = [(user, item, float(at)) for user in ("a", "b") for at, item in enumerate(("p1", "p2", "p3", "p1"))]
    users = {"a": {"age": 30.0, "gender": "f"}, "b": {"age": 50.0, "gender": "m"}}
    items: dict[str, dict[str, Any]] = {
        "p1": {"year": 1990, "genres": ["drama"]},
        "p2": {"year": 2000, "genres": ["comedy"]},
        "p3": {},
    }
    data = dataset(bought, users, items)
    return learn_schemas(of, data, data.events)


def test_outputs_have_unit_length_and_differ(built: tuple[keras.Model, keras.Model], schemas: Schemas) -> None:
    for tower, schema_, columns in zip(built, (schemas.query, schemas.item), (QUERIES, ITEMS), strict=True):
        outputs = np.array(tower(schema_.encode(columns, 3)))
        assert outputs.shape == (3, 6)
        assert np.linalg.norm(outputs, axis=1) == pytest.approx([1.0] * 3, abs=1e-5)
        assert np.abs(outputs @ outputs.T - np.eye(3)).max() < 0.9999


def test_towers_share_the_table_of_items(built: tuple[keras.Model, keras.Model], schemas: Schemas) -> None:
    query, item = built
    assert query.get_layer("query_tower_history").table is item.get_layer("items")
    rows = schemas.item.encode(ITEMS, 3)
    before = np.array(item(rows))
    table = item.get_layer("items").embeddings
    kept = np.array(table)
    table.assign(kept[::-1])
    assert np.abs(np.array(item(rows)) - before).max() > 0.01
    table.assign(kept)
    np.testing.assert_array_equal(np.array(item(rows)), before)


@pytest.mark.parametrize("columns", [{}, {"history": [[]]}, {"history": [["gone"]], "age": [None]}])
def test_little_known_gives_a_finite_vector(
    built: tuple[keras.Model, keras.Model], schemas: Schemas, columns: dict[str, Any]
) -> None:
    outputs = np.array(built[0](schemas.query.encode(columns, 1)))
    assert np.linalg.norm(outputs, axis=1) == pytest.approx([1.0], abs=1e-5)
    assert np.isfinite(np.array(built[1](schemas.item.encode({}, 1)))).all()


def test_empty_history_alone_is_finite_before_any_training() -> None:
    only = recipe(query_tower={"features": [{"name": "history", "kind": "history"}]})
    only_schemas = schemas_of(only)
    query, _ = towers.build(only, only_schemas)
    assert np.isfinite(np.array(query.model(only_schemas.query.encode({"history": [[]]}, 1)))).all()


def test_newest_items_count_and_older_ones_do_not(built: tuple[keras.Model, keras.Model], schemas: Schemas) -> None:
    # The shop's history holds 10.
    long, short, other = ["p1"] * 5 + ["p2"] * 10, ["p2"] * 10, ["p1"] * 10
    outputs = np.array(built[0](schemas.query.encode({"history": [long, short, other]}, 3)))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 0.01


def test_loaded_towers_answer_the_same(
    built: tuple[keras.Model, keras.Model], schemas: Schemas, tmp_path: Path
) -> None:
    for tower, schema_, columns in zip(built, (schemas.query, schemas.item), (QUERIES, ITEMS), strict=True):
        tower.save(tmp_path / f"{tower.name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{tower.name}.keras", compile=False)
        inputs = schema_.encode(columns, 3)
        np.testing.assert_array_equal(np.array(loaded(inputs)), np.array(tower(inputs)))


def test_slots_are_hidden_only_in_training_and_padding_never() -> None:
    slots = np.tile(np.array([[0, 2, 3, 4]], dtype=np.int32), (500, 1))
    layer = SlotDropout(0.25, seed=3)
    np.testing.assert_array_equal(np.array(layer(slots, training=False)), slots)
    np.testing.assert_array_equal(np.array(layer(slots)), slots)
    hidden = np.array(layer(slots, training=True))
    assert (hidden[:, 0] == 0).all()
    changed = hidden != slots
    assert (hidden[changed] == 1).all()  # out of vocabulary
    assert changed[:, 1:].mean() == pytest.approx(0.25, abs=0.04)  # 1,500 draws: standard error 0.011


def test_numbers_are_hidden_with_their_presence_and_only_in_training() -> None:
    numbers = np.tile(np.array([[-1.5, 1.0]], dtype=np.float32), (1000, 1))
    layer = PresenceDropout(0.25, seed=3)
    np.testing.assert_array_equal(np.array(layer(numbers, training=False)), numbers)
    hidden = np.array(layer(numbers, training=True))
    gone = (hidden == 0).all(axis=1)
    np.testing.assert_array_equal(hidden[~gone], numbers[~gone])
    assert gone.mean() == pytest.approx(0.25, abs=0.05)  # standard error 0.014


def test_mean_leaves_padding_out() -> None:
    embeddings = np.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[5.0, 5.0]] * 3], dtype=np.float32)
    slots = np.array([[7, 1, 0], [0, 0, 0]])
    # Row 0: (1 + 3) / 2 and (2 + 6) / 2; row 1 is empty.
    assert np.array(MaskedMean()(embeddings, slots)).tolist() == [[2.0, 4.0], [0.0, 0.0]]


@pytest.mark.parametrize("encoder", ["mean", "positions", "rank_decay", "gru", "transformer"])
@pytest.mark.parametrize("items", ["tied", "own", "tower"])
def test_training_sees_the_queries_that_serving_makes(encoder: str, items: str) -> None:
    features = [
        {**f, "encoder": encoder, "items": items} if f["kind"] == "history" else f
        for f in RECIPE.to_json()["query_tower"]["features"]
    ]
    own = recipe(training={"dimension": 6}, query_tower={"features": features})
    np.testing.assert_allclose(*queries_both_ways(own), atol=1e-5)


def test_hidden_values_are_missing_or_unknown_and_only_in_training() -> None:
    slots = np.tile(np.array([[0, 2, 3]], dtype=np.int32), (2000, 1))
    layer = ValueDropout(0.4, seed=3)
    np.testing.assert_array_equal(np.array(layer(slots, training=False)), slots)
    hidden = np.array(layer(slots, training=True))
    assert (hidden[:, 0] == 0).all()
    # Whole rows: a fifth missing, a fifth unknown; 2,000 draws, standard error 0.009.
    assert (hidden[:, 1:] == 0).all(axis=1).mean() == pytest.approx(0.2, abs=0.04)
    assert (hidden[:, 1:] == 1).all(axis=1).mean() == pytest.approx(0.2, abs=0.04)
    assert (hidden[:, 1:] == slots[:, 1:]).all(axis=1).mean() == pytest.approx(0.6, abs=0.04)
