"""Export of towers: the exported file gives the same embeddings, or the export fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from trainer.errors import ExportError
from trainer.publishing.export import export_query_tower

INPUTS = {"slot": np.array([0, 3, 9, 4], dtype=np.int32), "age": np.array([[0, 0], [1.5, 1], [-2, 1], [3, 1]], "f")}


def tower(*layers: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(8)
    slot, age = keras.Input((), dtype="int32", name="slot"), keras.Input((2,), name="age")
    hidden = keras.layers.Concatenate()([keras.layers.Embedding(10, 6)(slot), age])
    for layer in layers:
        hidden = layer(hidden)
    output = keras.layers.UnitNormalization()(keras.layers.Dense(4)(hidden))
    return keras.Model({"slot": slot, "age": age}, output)


def test_both_exports_answer_as_the_tower(tmp_path: Path) -> None:
    model = tower(keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.5))
    export_query_tower(model, INPUTS, tmp_path / "saved", tmp_path / "tower.tflite")
    expected = np.array(model(INPUTS))
    assert np.abs(expected - expected[0]).max() > 0.1
    served = Interpreter(model_path=str(tmp_path / "tower.tflite")).get_signature_runner("serve")
    saved = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve"]
    for rows in (slice(0, 4), slice(1, 2)):  # any batch size
        inputs = {name: values[rows] for name, values in INPUTS.items()}
        found = served(**inputs)["embedding"]
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)
        found = saved(**{name: tf.constant(values) for name, values in inputs.items()})["embedding"]
        np.testing.assert_allclose(found.numpy(), expected[rows], atol=1e-5)


class Traced(keras.layers.Layer):
    """Counts in Python how often it is traced: each graph made from it has another constant."""

    def __init__(self) -> None:
        super().__init__()
        self.traces = 0

    def call(self, inputs: Any) -> Any:
        self.traces += 1
        return inputs + float(self.traces)


def test_an_export_that_answers_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tower\.tflite differs from the trained tower by .*, allowed is 1e-05"):
        export_query_tower(tower(Traced()), INPUTS, tmp_path / "saved", tmp_path / "tower.tflite")


class Idle(keras.layers.Layer):
    """Has weights that no answer depends on: the conversion leaves them out."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(500, 20), initializer="normal")

    def call(self, inputs: Any) -> Any:
        return inputs


def test_an_export_without_all_weights_is_refused(tmp_path: Path) -> None:
    # 500 * 20 weights of 4 bytes are 40,000 bytes, and the others some hundred.
    with pytest.raises(ExportError, match=r"tower\.tflite has \d{4} bytes, its weights alone need 40\d{3}: .* lost"):
        export_query_tower(tower(Idle()), INPUTS, tmp_path / "saved", tmp_path / "tower.tflite")


class Nowhere(keras.layers.Layer):
    """Answers NaN."""

    def call(self, inputs: Any) -> Any:
        return inputs * float("nan")


def test_a_tower_that_answers_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from the trained tower by nan"):
        export_query_tower(tower(Nowhere()), INPUTS, tmp_path / "saved", tmp_path / "tower.tflite")
