"""Popularity as a dimension of the embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer import popularity, recipes, schema, towers, training
from trainer.embeddings import embed_items, embed_queries
from trainer.errors import RecipeError
from trainer.export import export_query_tower
from trainer.recipe import Recipe

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

DAY = 86_400.0
BOUGHT = [("u0", "a", 0.0), ("u0", "b", 10 * DAY), ("u1", "a", 0.0), ("u1", "b", 9 * DAY), ("u2", "a", 0.0)]


def of(**keys: Any) -> Recipe:
    return recipe(training={"dimension": 4, **keys})


def test_the_share_is_the_logarithm_of_the_events() -> None:
    data = dataset(BOUGHT, items={"a": {}, "b": {}, "c": {}})
    # a: 3 events, b: 2, c: none. log 4, log 3, log 1.
    expected = [1.0, np.log(3) / np.log(4), 0.0]
    assert popularity.shares(of(popularity="all_time").training, data.events, 3) == pytest.approx(expected)


def test_recent_events_count_more() -> None:
    data = dataset(BOUGHT, items={"a": {}, "b": {}, "c": {}})
    spec = of(popularity="recent", popularity_half_life_days=1.0).training
    # The newest event is on day 10. a: 3 events of 2**-10. b: one of 1 and one of 1/2.
    expected = [np.log1p(3 / 1024) / np.log(2.5), 1.0, 0.0]
    assert popularity.shares(spec, data.events, 3) == pytest.approx(expected, rel=1e-5)


def test_vectors_stay_of_unit_length_and_their_product_is_the_documented_one() -> None:
    own, data = of(popularity="all_time"), dataset(BOUGHT)
    schemas = schema.build(own, data, data.events)
    query, item = towers.build(own, schemas)
    assert item.popularity is not None
    item.popularity.assign(schemas.item.vocabularies["items"].lookup(["a", "b", "new"]), np.array([1.0, 0.4, 0.9]))
    rows = schemas.item.encode({"item_id": ["a", "b", "new"]}, 3)
    vectors = np.asarray(item.model(rows))
    raw, same = (np.asarray(output) for output in item.both(rows))
    np.testing.assert_array_equal(vectors, same)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    # Half of the share; an unknown item has none, whatever was said of it.
    np.testing.assert_allclose(vectors[:, -1], [0.5, 0.2, 0.0], atol=1e-6)
    asked = np.asarray(query.model(schemas.query.encode({"history": [["a", "b"]]}, 1)))
    weight = 1 / (1 + np.exp(2.0))  # at the start
    assert asked[0, -1] == pytest.approx(weight, rel=1e-5)
    own_part = asked[0, :-1] / np.sqrt(1 - weight**2)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    p = vectors[:, -1]
    expected = np.sqrt(1 - weight**2) * np.sqrt(1 - p**2) * (unit @ own_part) + weight * p
    np.testing.assert_allclose(vectors @ asked[0], expected, atol=1e-6)


@pytest.fixture(scope="module")
def fitted() -> Any:
    # Item n is bought by 2 n + 1 people, who buy nothing else.
    bought = [(f"u{item}-{user}", f"i{item}", 0.0) for item in range(10) for user in range(2 * item + 1)]
    own = of(popularity="all_time", epochs=30, batch_size=16, learning_rate=0.02)
    data = dataset(bought)
    schemas = schema.build(own, data, data.events)
    return own, data, schemas, training.fit(own, data, schemas, data.events, validate=None)


def test_a_query_of_which_nothing_is_known_learns_to_ask_for_what_is_popular(fitted: Any) -> None:
    _, data, schemas, found = fitted
    query_tower, item_tower = found.towers
    nothing = embed_queries(query_tower, schemas, {}, 1)
    items = embed_items(item_tower, schemas, data)
    assert items.shape == (10, 5)
    assert nothing[0, -1] > 1 / (1 + np.exp(2.0))  # more than at the start
    best = [data.items.ids[row] for row in np.argsort(-(items @ nothing[0]))[:3]]
    assert set(best) == {"i9", "i8", "i7"}


def test_the_exported_tower_answers_the_same(fitted: Any, tmp_path: Path) -> None:
    _, _, schemas, found = fitted
    # It raises where an answer of the exported tower is more than 1e-5 away.
    inputs = schemas.query.encode({"history": [["i1"], [], ["i3", "i9"]]}, 3)
    export_query_tower(found.towers[0], inputs, tmp_path / "query_tower", tmp_path / "query_tower.tflite")
    assert (tmp_path / "query_tower.tflite").stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_tower": {"features": [{"name": "year", "kind": "numeric"}]}}, "item_id"),
        ({"interactions": {"path": "x.csv", "user": "u", "item": "i"}}, "interactions.time"),
    ],
)
def test_refused_where_it_cannot_be_known(change: dict[str, Any], reason: str) -> None:
    raw = {**of(popularity="recent").to_json(), **change}
    with pytest.raises(RecipeError, match=reason):
        recipes.parse(raw, "mine")
