"""Embedding tables: lookup, gradients of the looked-up rows only, precision, and a graph without index checks."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.world import KERAS_AND_NUMPY
from trainer.model.slot_embedding import SlotEmbedding

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

SLOTS = np.array([[0, 4], [3, 3]], dtype=np.int32)


def test_slots_give_their_rows_and_train_them_alone() -> None:
    layer = SlotEmbedding(5, 3)
    layer.build(None)
    table = np.array(layer.embeddings)
    np.testing.assert_array_equal(np.array(layer(SLOTS)), table[SLOTS])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(SLOTS))
    (gradient,) = tape.gradient(loss, [layer.embeddings.value])
    dense = tf.convert_to_tensor(gradient).numpy()
    assert dense.sum(axis=1).tolist() == [3, 0, 0, 6, 3]


def test_it_computes_in_its_precision_and_keeps_its_weights_in_float32() -> None:
    layer = SlotEmbedding(5, 3, dtype="mixed_float16")
    assert layer(SLOTS).dtype == tf.float16
    assert layer.embeddings.dtype == "float32"


def test_a_graph_has_one_step_a_table_and_is_saved_with_it(tmp_path: Path) -> None:
    slots = keras.Input((2,), dtype="int32", name="slots")
    model = keras.Model(slots, SlotEmbedding(5, 3)(slots))
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((None, 2), tf.int32)).graph
    assert not {"Less", "SelectV2"} & {operation.type for operation in graph.get_operations()}
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.array(again(SLOTS)), np.array(model(SLOTS)))
