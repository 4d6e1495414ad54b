"""History encoders: training and serving give the same vectors, and no position depends on later items."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY
from trainer.model.history.build import build_encoder
from trainer.model.history.encoded_history import EncodedHistory
from trainer.model.history.encoder import HistoryEncoder
from trainer.model.history.pooling import Positions, RankDecay
from trainer.model.history.transformer import Transformer
from trainer.publishing.export import export_query_tower
from trainer.recipe.feature_inputs import HistoryInput

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

ENCODERS = ("mean", "positions", "rank_decay", "gru", "transformer")
MAX_VALUES, DIMENSION, SLOTS = 6, 4, 12


def encoded(kind: str) -> EncodedHistory:
    """Returns an encoder with random changes to all weights, so that none is zero."""
    keras.utils.set_random_seed(3)
    given = HistoryInput("history", "history", max_values=MAX_VALUES, encoder=kind, layers=2)  # type: ignore[arg-type]
    table = keras.layers.Embedding(SLOTS, DIMENSION, embeddings_initializer="normal", name="items")
    layer = EncodedHistory(table, build_encoder(given, "encoder"), 0.0, name="encoded")
    layer(np.zeros((1, MAX_VALUES), dtype=np.int32))
    generator = np.random.default_rng(5)
    for weight in layer.trainable_weights:
        weight.assign_add(generator.normal(size=weight.shape) * 0.3)
    return layer


@pytest.mark.parametrize("kind", ENCODERS)
def test_each_prefix_is_what_the_service_would_make_of_it(kind: str) -> None:
    layer = encoded(kind)
    # Oldest first; 1 is an item that training did not know, 0 pads.
    sequences = np.array([[2, 5, 1, 7, 3, 9], [4, 4, 0, 0, 0, 0], [1, 1, 8, 0, 0, 0]], dtype=np.int32)
    prefixes = np.array(layer.prefixes(sequences))  # [3, 6, 4]
    for row, sequence in enumerate(sequences):
        for t in range(int((sequence != 0).sum())):
            newest_first = np.zeros((1, MAX_VALUES), dtype=np.int32)
            newest_first[0, :t] = sequence[:t][::-1]
            alone = np.array(layer(newest_first))[0]
            np.testing.assert_allclose(prefixes[row, t], alone, atol=1e-5, err_msg=f"row {row}, t {t}")


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_changed_item_changes_no_position_up_to_its_own_and_the_next_one(kind: str) -> None:
    layer = encoded(kind)
    before = np.array([[2, 5, 6, 7, 3, 9]], dtype=np.int32)
    after = before.copy()
    after[0, 3] = 10
    a, b = np.array(layer.prefixes(before))[0], np.array(layer.prefixes(after))[0]
    np.testing.assert_array_equal(a[:4], b[:4])
    assert np.abs(a[4] - b[4]).max() > 1e-4


@pytest.mark.parametrize("kind", ENCODERS)
def test_nothing_known_is_the_zero_vector(kind: str) -> None:
    layer = encoded(kind)
    nothing = np.array([[0] * MAX_VALUES, [1, 1, 0, 0, 0, 0]], dtype=np.int32)
    assert np.array(layer(nothing)).tolist() == [[0.0] * DIMENSION] * 2
    assert np.array(layer.prefixes(nothing))[:, 0].tolist() == [[0.0] * DIMENSION] * 2


@pytest.mark.parametrize("kind", ["mean", "positions", "rank_decay"])
def test_pooling_sees_the_newest_items_alone(kind: str) -> None:
    layer = encoded(kind)
    long = np.array([[2, 3, 4, 5, 6, 7, 8, 9, 10]], dtype=np.int32)
    other = long.copy()
    other[0, :2] = 11
    # Position 8 sees the six before it: items 2 to 7 of the sequence.
    np.testing.assert_array_equal(np.array(layer.prefixes(long))[0, 8], np.array(layer.prefixes(other))[0, 8])
    assert np.abs(np.array(layer.prefixes(long))[0, 7] - np.array(layer.prefixes(other))[0, 7]).max() > 1e-4


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # Weights 1, 1/2, 1/3: newest 6, then 3, then 12 give (6 + 1.5 + 4) / (11/6).
        (Positions(3), 11.5 / (11 / 6)),
        # Factor 1 / (1 + exp(-2.2)) = 0.900250: (6 + 3 f + 12 f^2) / (1 + f + f^2).
        (RankDecay(3), (6 + 3 * 0.900250 + 12 * 0.810450) / (1 + 0.900250 + 0.810450)),
    ],
)
def test_weights_at_the_start(layer: HistoryEncoder, expected: float) -> None:
    embeddings = np.array([[[6.0], [3.0], [12.0]]], dtype=np.float32)
    found = np.array(layer(embeddings, np.ones((1, 3), np.float32), np.array([[7, 8, 9]], np.int32)))
    assert found[0, 0] == pytest.approx(expected, rel=1e-5)


def test_transformer_knows_order() -> None:
    layer = encoded("transformer")
    one = np.array(layer(np.array([[2, 3, 4, 0, 0, 0]], dtype=np.int32)))
    other = np.array(layer(np.array([[2, 4, 3, 0, 0, 0]], dtype=np.int32)))
    assert np.abs(one - other).max() > 1e-3


def test_heads_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 4 dimensions"):
        Transformer(MAX_VALUES, heads=3).build((None, MAX_VALUES, DIMENSION))


@pytest.mark.parametrize("kind", ENCODERS)
def test_exported_tower_answers_the_same(kind: str, tmp_path: Path) -> None:
    layer = encoded(kind)
    inputs = {"history": keras.Input((MAX_VALUES,), dtype="int32", name="history")}
    tower = keras.Model(inputs, layer(inputs["history"]))
    histories = {"history": np.array([[2, 5, 1, 7, 3, 9], [4, 4, 0, 0, 0, 0], [0] * 6], dtype=np.int32)}
    export_query_tower(tower, histories, tmp_path / "saved", tmp_path / "tower.tflite")  # raises where they differ
    assert (tmp_path / "tower.tflite").stat().st_size > SLOTS * DIMENSION * 4


@pytest.mark.parametrize("kind", ENCODERS)
def test_loaded_encoder_answers_the_same(kind: str, tmp_path: Path) -> None:
    layer = encoded(kind)
    inputs = keras.Input((MAX_VALUES,), dtype="int32", name="history")
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    histories = np.array([[2, 5, 1, 7, 3, 9], [4, 4, 0, 0, 0, 0]], dtype=np.int32)
    np.testing.assert_array_equal(np.array(loaded(histories)), np.array(model(histories)))
