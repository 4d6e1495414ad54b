"""Several vectors a query: what the heads make, which one a pair trains, and that serving sees what training saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.trainer.skew import queries_both_ways, two_users
from tests.trainer.world import KERAS_AND_NUMPY, recipe, write_shop
from trainer import data, losses, schema, splits, training
from trainer.errors import RecipeError
from trainer.evaluation import evaluate_validation
from trainer.export import export_query_tower
from trainer.interests import InterestHeads, mean_cosine
from trainer.negatives import mine_hard_negatives
from trainer.recipe import Recipe

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def with_interests(count: int, encoder: str = "positions", items: str = "tied", **training: Any) -> Recipe:
    features = [
        {**f, "encoder": encoder, "items": items} if f["kind"] == "history" else f
        for f in recipe().to_json()["query_tower"]["features"]
    ]
    return recipe(query_tower={"features": features, "interests": count}, training={"dimension": 6, **training})


QUERIES = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, -0.6]]])
"""[2, 2, 2]: two queries of two interests."""
ITEMS = tf.constant([[0.0, 1.0], [1.0, 0.0]])
"""Products of query 0: 0 and .8 with item 0, 1 and .6 with item 1; of query 1: 1 and -.6, 0 and .8."""


def test_losses_score_positives_and_negatives_by_the_interest_that_likes_them_best() -> None:
    # Row 0, positive item 0: log(e^.8 + e^1) - .8 = .7981; row 1, positive item 1: log(e^1 + e^.8) - .8, the same.
    rows, ones = tf.constant([0, 1]), tf.ones(2)
    full = losses.full_softmax(QUERIES, ITEMS, rows, ones, 1.0)
    in_batch = losses.in_batch_softmax(QUERIES, ITEMS, rows, tf.zeros(2), ones, 1.0)
    negatives = losses.Candidates(ITEMS, rows, tf.zeros(2))
    sampled = losses.sampled_softmax(QUERIES, ITEMS, rows, negatives, ones, 1.0)
    np.testing.assert_allclose([full, in_batch, sampled], [0.798139] * 3, atol=1e-5)
    # Binary: (log(1 + e^-.8) + log(1 + e^1)) / 2 = (.371101 + 1.313262) / 2, in both rows.
    np.testing.assert_allclose(
        losses.binary_cross_entropy(QUERIES, ITEMS, rows, negatives, ones, 1.0), 0.842181, atol=1e-5
    )


def test_gradients_reach_the_best_interest_of_a_pair_alone() -> None:
    queries = tf.Variable(QUERIES[:1])
    negatives = losses.Candidates(ITEMS[:0], tf.zeros(0, tf.int32), tf.zeros(0))
    with tf.GradientTape() as tape:
        loss = losses.binary_cross_entropy(queries, ITEMS[:1], tf.constant([0]), negatives, tf.ones(1), 1.0)
    gradient = tf.convert_to_tensor(tape.gradient(loss, queries)).numpy()
    # The second interest has .8 with item 0, (0, 1): its gradient is -sigmoid(-.8) (0, 1) = -.310026 (0, 1).
    np.testing.assert_allclose(gradient, [[[0.0, 0.0], [0.0, -0.310026]]], atol=1e-5)


def test_cosine_tells_collapsed_interests_from_distinct_ones() -> None:
    # Cosines of the pairs: 0.6, 0 and 0.8, mean 1.4 / 3.
    distinct = np.array([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    assert mean_cosine(distinct) == pytest.approx(1.4 / 3)
    assert mean_cosine(np.repeat(distinct[:, :1], 3, axis=1)) == pytest.approx(1.0)


def test_a_head_corrects_what_the_encoder_made_and_an_empty_history_has_no_interests_apart() -> None:
    layer = InterestHeads(2)
    layer.build((None, 2))
    # W_1 swaps the values, W_2 makes them negative and doubles them.
    layer.kernel.assign([[0.0, 1.0, -2.0, 0.0], [1.0, 0.0, 0.0, -2.0]])
    encoded = np.array([[1.0, 3.0], [0.0, 0.0]], dtype=np.float32)
    # v + v W_1 = (1 + 3, 3 + 1); v + v W_2 = (1 - 2, 3 - 6).
    expected = [[[4.0, 4.0], [-1.0, -3.0]], [[0.0, 0.0], [0.0, 0.0]]]
    np.testing.assert_allclose(layer(encoded), expected)
    np.testing.assert_allclose(layer(encoded[np.newaxis]), [expected])  # prefixes: one more axis


@pytest.mark.parametrize("encoder", ["mean", "positions", "rank_decay", "gru", "transformer"])
@pytest.mark.parametrize("items", ["tied", "tower"])
def test_training_sees_the_queries_that_serving_makes(encoder: str, items: str) -> None:
    own = with_interests(3, encoder, items)
    found, served = queries_both_ways(own)
    assert served.shape == (13, 3, 6)  # 9 and 4 events; six dimensions
    np.testing.assert_allclose(np.linalg.norm(served, axis=2), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, served, atol=1e-5)
    assert mean_cosine(served[1:9]) < 0.999  # a user's first query has no history, and so one interest


@pytest.mark.parametrize("encoder", ["positions", "gru", "transformer"])
def test_saved_and_exported_towers_answer_as_the_trained_one(encoder: str, tmp_path: Path) -> None:
    _, query, built, _ = two_users(with_interests(3, encoder))
    raw = {"history": [["p1", "p2"], [], ["p3", "p1", "gone"]], "age": [30.0, None, 50.0]}
    inputs = built.query.encode(raw, 3)
    expected = np.array(query.model(inputs))
    query.model.save(tmp_path / "tower.keras")
    loaded = keras.saving.load_model(tmp_path / "tower.keras", compile=False)
    np.testing.assert_array_equal(np.array(loaded(inputs)), expected)
    # It checks that both forms answer as the tower does; LiteRT here has its own operations alone.
    export_query_tower(query.model, inputs, tmp_path / "saved", tmp_path / "tower.tflite")
    served = Interpreter(model_path=str(tmp_path / "tower.tflite")).get_signature_runner("serve")(**inputs)["embedding"]
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_one_interest_is_the_tower_without_heads() -> None:
    _, one, _, _ = two_users(with_interests(1))
    _, plain, built, _ = two_users(recipe(training={"dimension": 6}))
    assert [w.shape for w in one.model.weights] == [w.shape for w in plain.model.weights]
    assert not [layer for layer in one.histories.values() if layer.heads is not None]
    inputs = built.query.encode({"history": [["p1", "p2"]], "age": [30.0]}, 1)
    np.testing.assert_array_equal(np.array(one.model(inputs)), np.array(plain.model(inputs)))
    assert one.model.output_shape == (None, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "in_batch_softmax", "queue": 30},
        {"loss": "full_softmax"},
        {"loss": "sampled_softmax", "negatives": 10, "hard_negatives": 4},
        {"loss": "gbce", "negatives": 10, "precision": "mixed_bfloat16"},
    ],
    ids=lambda change: change["loss"],
)
def test_losses_learn_the_shop_with_several_interests(folder: Path, change: dict[str, Any]) -> None:
    of = recipe(query_tower={"interests": 2}, training={"epochs": 8, "temperature": 0.2, **change})
    shop = data.load(of, folder)
    parts = splits.split(shop, of.split)
    schemas = schema.build(of, shop, parts.train)
    fitted = training.fit(
        of, shop, schemas, parts.train, validate=lambda pair: evaluate_validation(of, shop, schemas, pair, parts)
    )
    assert fitted.epochs[-1]["loss"] < fitted.epochs[0]["loss"]
    # By chance the one of 29 to 30 unknown items is among ten in a third of the lists.
    assert fitted.epochs[-1]["val_recall@10"] > 0.5


def test_hard_negatives_are_near_any_interest() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0.8, 0.6]], dtype=np.float32)
    queries = np.array([[[1, 0], [-1, 0]]], dtype=np.float32)
    # Scores 1, 0, 1, 0.8; the user knows item 0.
    found = mine_hard_negatives(queries, vectors, [np.array([0])], 3, 0)
    assert found.tolist() == [[2, 3, 1]]


def test_interests_need_a_history_and_belong_to_the_query_tower() -> None:
    no_history = [{"name": "age", "kind": "numeric"}]
    with pytest.raises(RecipeError, match=r"query_tower\.interests 2 needs a feature of kind history"):
        recipe(query_tower={"interests": 2, "features": no_history})
    with pytest.raises(RecipeError, match=r"item_tower.*interests"):
        recipe(item_tower={"interests": 2})
    for count in (0, 9):
        with pytest.raises(RecipeError, match=r"query_tower.*interests"):
            recipe(query_tower={"interests": count})
