"""Event features of a history: training computes the same inputs as the service from the same lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from retrieval.bundle.features.event_kinds import HistoryNumeric
from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.errors import RunError
from trainer.features.event_schema import history_columns
from trainer.features.schemas import Schemas, learn_schemas
from trainer.model import towers
from trainer.model.two_tower import TwoTower
from trainer.publishing.export import export_query_tower
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe.loading import RecipeError
from trainer.recipe.recipe import Recipe
from trainer.training.examples import Examples
from trainer.training.fit import fit, prepare

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

MAX_VALUES = 3
"""Fewer than the longest history, so that the oldest event that counts has one before it."""
ATTRIBUTES = {
    "rating": {"column": "rating", "type": "float"},
    "dwell": {"column": "dwell", "type": "float"},
    "action": {"column": "action"},
}
WITHOUT_AGE = [
    {"kind": "numeric", "name": "rating"},
    {"kind": "numeric", "name": "dwell", "log": True},
    {"kind": "categorical", "name": "action", "embedding_dim": 3},
    {"kind": "gap"},
]
ALL = [*WITHOUT_AGE, {"kind": "age"}]
ENCODERS = ("mean", "positions", "rank_decay", "gru", "transformer")


def shop(encoder: str, values: list[dict[str, Any]], items: str = "tied", **training: Any) -> Recipe:
    # A sequence of `gru` and `transformer` may be cut elsewhere than a request, so theirs are not cut at all.
    width = 20 if encoder in ("gru", "transformer") else MAX_VALUES
    given = {"encoder": encoder, "event_features": values, "max_values": width, "items": items}
    given["event_feature_dropout"] = 0.0
    return recipe(
        interactions={"attributes": ATTRIBUTES},
        query_tower={"features": [{"name": "history", "kind": "history", **given}], "hidden_units": []},
        training={"dimension": 4, "batch_size": 8, **training},
    )


def events() -> Dataset:
    """Three users; the times of one repeat, and some values are missing."""
    bought = [("u0", f"i{at % 4}", 1e9 + 3600.0 * at**3) for at in range(5)]
    bought += [("u1", f"i{at % 3}", 1e9 + 90.0 * (at // 2)) for at in range(4)]
    bought += [("u2", "i1", 2e9)]
    data = dataset(bought)
    rating = np.array([5.0, None, 1.0, 3.0, 4.0, 2.0, 5.0, None, 3.0, 1.0], dtype=object)
    dwell = np.array([0.0, 10.0, 1000.0, None, 3.0, 7.0, 0.5, 20.0, 9.0, 2.0], dtype=object)
    action = np.array(["view", "buy", None, "buy", "view", "view", "cart", "buy", "view", "buy"], dtype=object)
    attributes = {"rating": rating, "dwell": dwell, "action": action}
    return dataclasses.replace(data, events=dataclasses.replace(data.events, attributes=attributes))


def prepared(of: Recipe, data: Dataset) -> tuple[Schemas, Examples, TwoTower]:
    """Returns schemas, examples and an untrained model with random changes to all weights, so that none is zero."""
    schemas = learn_schemas(of, data, data.events)
    examples, model = prepare(of, data, schemas, data.events)
    generator = np.random.default_rng(5)
    for weight in model.trainable_variables:
        weight.assign_add(generator.normal(size=weight.shape) * 0.3)
    model.fill_tables()
    return schemas, examples, model


def seen_by(data: Dataset, row: int, lag: float | None) -> Events:
    """Returns the events in the history of the target at `row`: its user's, more than `lag` seconds before it."""
    events = data.events
    before = (events.users == events.users[row]) & (np.arange(len(events)) < row)
    if lag is not None:
        before &= events.times < events.times[row] - lag
    return events.where(before)


@pytest.mark.parametrize("items", ["tied", "tower"])
@pytest.mark.parametrize("values", [WITHOUT_AGE, ALL], ids=["without-age", "all"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_target_has_the_query_that_the_service_makes_of_the_same_lists(
    encoder: str, values: list[dict[str, Any]], items: str
) -> None:
    check_targets(shop(encoder, values, items), None)


@pytest.mark.parametrize(("encoder", "values"), [("positions", ALL), ("gru", WITHOUT_AGE)])
def test_so_it_is_where_a_lag_hides_the_newest_events(encoder: str, values: list[dict[str, Any]]) -> None:
    check_targets(shop(encoder, values, history_lag=0.0), 0.0)


def check_targets(of: Recipe, lag: float | None) -> None:
    data = events()
    schemas, examples, model = prepared(of, data)
    checked = 0
    for batch in examples.epoch(0):
        found = model.embed_queries(tf.nest.map_structure(tf.convert_to_tensor, batch), training=False).numpy()
        for n, (user, item) in enumerate(zip(batch["user"].tolist(), batch["item"].tolist(), strict=True)):
            rows = np.flatnonzero((data.events.users == user) & (data.events.items == item))
            queries = []
            for row in rows.tolist():
                asked = data.events.take(np.array([row]))
                known, users = seen_by(data, row, lag), np.array([user])
                raw = history_columns(schemas.query, data, known, users, asked)
                queries.append(np.array(model.query_tower(schemas.query.encode(raw, 1)))[0])
            # A user may have met an item twice: then it is one of both.
            assert min(np.abs(found[n] - query).max() for query in queries) < 1e-5, (user, item)
            checked += 1
    assert checked == len(data.events)


def test_a_value_changes_what_comes_after_its_event_and_nothing_else() -> None:
    of = shop("transformer", WITHOUT_AGE)
    data = events()
    _, examples, model = prepared(of, data)
    batch = examples.batch(np.arange(1))
    before = model.embed_queries(tf.nest.map_structure(tf.convert_to_tensor, batch), training=False).numpy()
    changed = batch["values"]["history"]["history.rating"].copy()
    changed[0, 1] = (-3.0, 1.0)
    batch["values"]["history"]["history.rating"] = changed
    after = model.embed_queries(tf.nest.map_structure(tf.convert_to_tensor, batch), training=False).numpy()
    differs = np.abs(after - before).max(axis=1) > 1e-4
    # Targets whose history reaches beyond the changed event at place 1, in the first sequence.
    assert differs.tolist() == [place > 1 for place in batch["position"].tolist()]
    assert differs.any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_ids_alone_are_read_as_by_a_recipe_without_values(encoder: str) -> None:
    data = events()
    schemas, _, model = prepared(shop(encoder, ALL), data)
    ids = [["i0", "i3", "i1"], [], ["i2"]]
    served = np.array(model.query_tower(schemas.query.encode({"history": ids}, 3)))
    of = shop(encoder, [])
    plain = towers.build(of, learn_schemas(of, data, data.events))[0]
    both = [
        [w for w in tower.trainable_weights if "_values/" not in w.path] for tower in (plain.model, model.query_tower)
    ]
    for weight, trained in zip(*both, strict=True):
        weight.assign(trained)
    alone = schemas.query.subset({"history"}).encode({"history": ids}, 3)
    np.testing.assert_allclose(served, np.array(plain.model(alone)), atol=1e-6)


def test_values_say_nothing_before_training() -> None:
    data = events()
    of = shop("mean", ALL)
    schemas = learn_schemas(of, data, data.events)
    tower = towers.build(of, schemas)[0].model
    users = np.arange(3)
    raw = history_columns(schemas.query, data, data.events, users)
    alone = {"history": raw["history"]}
    with_values, without = (np.array(tower(schemas.query.encode(columns, 3))) for columns in (raw, alone))
    np.testing.assert_allclose(with_values, without, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_exported_tower_answers_the_same_and_says_nothing_of_names(
    encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_tensorflow()  # as every command begins
    data = events()
    schemas, _, model = prepared(shop(encoder, ALL), data)
    raw = history_columns(schemas.query, data, data.events, np.arange(3), data.events)
    inputs = schemas.query.encode(raw, 3)
    export_query_tower(model.query_tower, inputs, tmp_path / "saved", tmp_path / "tower.tflite")  # raises
    assert "history.rating" not in caplog.text


def test_loaded_tower_answers_the_same(tmp_path: Path) -> None:
    data = events()
    schemas, _, model = prepared(shop("positions", ALL), data)
    inputs = schemas.query.encode(history_columns(schemas.query, data, data.events, np.arange(3), data.events), 3)
    model.query_tower.save(tmp_path / "tower.keras")
    loaded = keras.saving.load_model(tmp_path / "tower.keras", compile=False)
    np.testing.assert_array_equal(np.array(loaded(inputs)), np.array(model.query_tower(inputs)))


def test_a_training_does_not_go_on_with_other_values(tmp_path: Path) -> None:
    of, data = shop("mean", [{"kind": "numeric", "name": "rating"}], epochs=1), events()
    schemas = learn_schemas(of, data, data.events)
    fit(of, data, schemas, data.events, validate=None, folder=tmp_path)
    ratings = data.events.attributes["rating"][:].tolist()
    others = {**data.events.attributes, "rating": np.array([*ratings[:-1], 2.0], dtype=object)}
    changed = dataclasses.replace(data.events, attributes=others)
    with pytest.raises(RunError, match="the training events have changed"):
        fit(of, data, schemas, changed, validate=None, folder=tmp_path, resume=True)


def test_hidden_values_are_missing_ones() -> None:
    of = shop("mean", ALL)
    data = events()
    _, _, model = prepared(of, data)
    values = model._parts.histories["history"].values
    assert values is not None
    values.rate = 0.5
    inputs = {spec["name"]: np.ones((40, 2, {"categorical": 1, "numeric": 2, "times": 4}[spec["kind"]]), np.float32)
              for spec in values.specs}  # fmt: skip
    hidden = values.drop(inputs, training=True)
    for given in hidden.values():
        rows = np.array(given).reshape(40, -1)
        assert set(rows.mean(axis=1).tolist()) == {0.0, 1.0}  # a row is hidden whole or not at all
    assert any(np.array(a)[:, 0, 0].tolist() != np.array(b)[:, 0, 0].tolist() for a in hidden.values()
               for b in hidden.values())  # fmt: skip
    assert values.drop(inputs, training=False) == inputs


def test_statistics_are_those_of_training_events() -> None:
    features = {f.name: f for f in learn_schemas(shop("mean", ALL), events(), events().events).query.features}
    assert list(features) == [
        "history", "history.rating", "history.dwell", "history.action", "history.time", "request_time"
    ]  # fmt: skip
    rating, dwell = features["history.rating"], features["history.dwell"]
    assert isinstance(rating, HistoryNumeric)
    assert isinstance(dwell, HistoryNumeric)
    # Ratings 5, 1, 3, 4, 2, 5, 3, 1: mean 24/8 = 3, squares of the differences 4+4+0+1+1+4+0+4 = 18, so std 1.5.
    assert (rating.mean, rating.std, rating.log) == (3.0, 1.5, False)
    logs = np.log1p([0.0, 10.0, 1000.0, 3.0, 7.0, 0.5, 20.0, 9.0, 2.0])
    assert (dwell.mean, dwell.std, dwell.log) == (pytest.approx(logs.mean()), pytest.approx(logs.std()), True)


@pytest.mark.parametrize(
    ("values", "interactions", "message"),
    [
        (
            [{"kind": "numeric", "name": "stars"}],
            {},
            r"event feature stars: no such attribute; .*'action', 'dwell', 'rating'",
        ),
        ([{"kind": "numeric", "name": "action"}], {}, "event feature action: kind numeric reads type int or float"),
        (
            [{"kind": "categorical", "name": "rating"}],
            {},
            "event feature rating: kind categorical reads type string or int",
        ),
        ([{"kind": "gap"}, {"kind": "gap"}], {}, r"event features \['gap', 'gap'\] are not distinct"),
        ([{"kind": "age"}], {"time": None}, r"need interactions\.time"),
        ([{"kind": "rating"}], {}, "rating"),
    ],
)  # fmt: skip
def test_values_that_are_not_there_are_refused(values: list[Any], interactions: dict[str, Any], message: str) -> None:
    given = {"name": "history", "kind": "history", "event_features": values}
    with pytest.raises(RecipeError, match=message):
        recipe(interactions={"attributes": ATTRIBUTES, **interactions}, query_tower={"features": [given]})
