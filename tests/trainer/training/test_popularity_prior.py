"""The recent-popularity prior, which adds a dimension to trained towers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer.errors import RecipeError
from trainer.features.schemas import learn_schemas
from trainer.model.embeddings import embed_items, embed_queries
from trainer.model.ensemble import join
from trainer.publishing.export import export_query_tower
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.training import popularity_prior
from trainer.training.fit import fit

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

DAY = 86_400.0
BOUGHT = [
    ("u0", "a", 0.0), ("u0", "b", 70 * DAY), ("u0", "b", 80 * DAY), ("u0", "a", 81 * DAY),
    ("u1", "b", 90 * DAY), ("u1", "c", 60 * DAY), ("u1", "c", 61 * DAY),
]  # fmt: skip
ITEMS: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {}, "d": {}}


def of(**keys: Any) -> Recipe:
    return recipe(training={"dimension": 4, "epochs": 2, "prior_weight": 0.2, **keys})


@pytest.mark.parametrize(
    ("keys", "counts"),
    [
        # Since day 60: a on day 81; b on days 70, 80 and 90; c on days 60 and 61.
        ({"prior_days": 30.0}, [1, 3, 2, 0]),
        ({"prior_days": 29.5}, [1, 3, 1, 0]),
        # First purchases alone: u0 had a long before, u1 takes c for the first time on day 60.
        ({"prior_days": 30.0, "event_order": "shuffled"}, [0, 2, 1, 0]),
        ({"prior_days": 29.5, "novel_targets": True}, [0, 2, 0, 0]),
        # The newest first purchase is that of b on day 90; the day counts from there.
        ({"prior_days": 0.001, "novel_targets": True}, [0, 1, 0, 0]),
    ],
)
def test_counts_what_may_be_a_target_and_is_not_too_old(keys: dict[str, Any], counts: list[int]) -> None:
    data = dataset(BOUGHT, items=ITEMS)
    expected = np.log1p(counts) / np.log1p(max(counts))
    assert popularity_prior.recent_popularity(of(**keys).training, data.events, 4) == pytest.approx(expected, abs=1e-6)


def test_where_the_newest_events_are_repeats_it_counts_back_from_the_last_first_purchase() -> None:
    data = dataset([*BOUGHT, ("u0", "a", 500 * DAY)], items=ITEMS)
    spec = of(prior_days=30.0, novel_targets=True).training
    assert popularity_prior.count_recent(spec, data.events, 4).tolist() == [0, 2, 1, 0]


@pytest.fixture(scope="module")
def fitted() -> Any:
    data = dataset(BOUGHT, items=ITEMS)
    own, without = of(), of(prior_weight=0.0)
    schemas = learn_schemas(own, data, data.events)
    shown: list[Any] = []

    def validate(towers: Any) -> dict[str, float]:
        shown.append(towers)
        return {"ndcg@10": 0.0}

    found = fit(own, data, schemas, data.events, validate=validate)
    plain = fit(without, data, schemas, data.events, validate=None)
    return data, schemas, found.towers, plain.towers, shown


def test_the_product_is_the_documented_one_and_vectors_stay_of_unit_length(fitted: Any) -> None:
    data, schemas, (query, item), (own_query, own_item), _ = fitted
    items, own_items = embed_items(item, schemas, data), embed_items(own_item, schemas, data)
    asked = {"history": [["a"], []]}
    queries, own_queries = embed_queries(query, schemas, asked, 2), embed_queries(own_query, schemas, asked, 2)
    assert items.shape == (4, 5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, atol=1e-6)
    p = np.log1p([1, 3, 2, 0]) / np.log(4)
    expected = np.sqrt(0.8 * (1 - 0.2 * p**2)) * (own_queries @ own_items.T) + 0.2 * p
    np.testing.assert_allclose(queries @ items.T, expected, atol=1e-6)


def test_epochs_are_judged_with_it(fitted: Any) -> None:
    _, _, _, _, shown = fitted
    assert [tower.output_shape[-1] for towers in shown for tower in towers] == [5] * 4


def test_an_item_that_training_did_not_know_has_none(fitted: Any) -> None:
    _, schemas, (_, item), _, _ = fitted
    vectors = np.asarray(item(schemas.item.encode({"item_id": ["b", "new"]}, 2)))
    assert vectors[0, -1] == pytest.approx(np.sqrt(0.2))
    assert vectors[1, -1] == 0.0


def test_of_several_members_the_score_is_the_mean_still(fitted: Any) -> None:
    data, schemas, towers, _, _ = fitted
    seeded = dataclasses.replace(of(), seed=2)
    again = fit(seeded, data, schemas, data.events, validate=None).towers
    asked = {"history": [["a"]]}
    scores = [embed_queries(q, schemas, asked, 1) @ embed_items(i, schemas, data).T for q, i in (towers, again)]
    query, item = join([towers, again])
    joined = embed_queries(query, schemas, asked, 1) @ embed_items(item, schemas, data).T
    np.testing.assert_allclose(joined, np.mean(scores, axis=0), atol=1e-6)


def test_it_is_exported_and_kept(fitted: Any, tmp_path: Path) -> None:
    data, schemas, (query, item), _, _ = fitted
    inputs = schemas.query.encode({"history": [["a"], [], ["c", "b"]]}, 3)
    # Raises where an answer of the exported tower is more than 1e-5 away.
    export_query_tower(query, inputs, tmp_path / "query_tower", tmp_path / "query_tower.tflite")
    item.save(tmp_path / "item.keras")
    loaded: Any = keras.models.load_model(tmp_path / "item.keras")
    np.testing.assert_array_equal(embed_items(loaded, schemas, data), embed_items(item, schemas, data))


def test_a_process_that_did_not_train_can_load_it(fitted: Any, tmp_path: Path) -> None:
    _, _, towers, _, _ = fitted
    for number, tower in enumerate(towers):
        tower.save(tmp_path / f"{number}.keras")
    # What `evaluate` and `publish` import.
    load = (
        "import sys, trainer.training.saved_run, keras; "
        "print([keras.models.load_model(path).output_shape for path in sys.argv[1:]])"
    )
    command = [sys.executable, "-c", load, *map(str, sorted(tmp_path.glob("*.keras")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[(None, 5), (None, 5)]\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_tower": {"features": [{"name": "year", "kind": "numeric"}]}}, "item_id"),
        ({"interactions": {"path": "x.csv", "user": "u", "item": "i"}}, "interactions.time"),
        ({"training": {"prior_weight": 1.0}}, "prior_weight"),
    ],
)
def test_refused_where_it_cannot_be_known(change: dict[str, Any], reason: str) -> None:
    raw = {**of().to_json(), **change}
    with pytest.raises(RecipeError, match=reason):
        loading.parse(raw, "mine")
