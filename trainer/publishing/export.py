"""Exports the towers of a model. Both exports of the query tower are checked against the trained tower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retrieval.bundle.layout import (
    EMBEDDING,
    ITEM_TOWER,
    QUERY_TOWER,
    QUERY_TOWER_SAVED_MODEL,
    SIGNATURE,
    VOCABULARIES,
)
from retrieval.inference.interpreter_pool import InterpreterPool
from trainer.errors import ExportError
from trainer.model.trained_model import TrainedModel
from trainer.quiet_tensorflow import quiet_stderr

TOLERANCE = 1e-5
"""Largest allowed difference between a component of an exported tower's embedding and of the trained tower's."""


def export_model(model: TrainedModel, inputs: Mapping[str, np.ndarray], folder: Path) -> None:
    """Writes both towers and the vocabularies into the folder of a bundle.

    Args:
        model: Model to export; its text encoders are exported by `trainer.publishing.exported_text_encoders`.
        inputs: Inputs of the query tower for a few real queries by feature name, each [n, ...].
        folder: Folder of the bundle.

    Raises:
        ExportError: An export of the query tower cannot be written, or does not pass its checks.
    """
    query_tower, item_tower = model.towers
    export_query_tower(query_tower, inputs, folder / QUERY_TOWER_SAVED_MODEL, folder / QUERY_TOWER)
    item_tower.save(folder / ITEM_TOWER)
    vocabularies = {**model.schemas.query.vocabularies, **model.schemas.item.vocabularies}
    text = json.dumps({name: list(vocabulary.values) for name, vocabulary in vocabularies.items()}, ensure_ascii=False)
    (folder / VOCABULARIES).write_text(text, encoding="utf-8")


def export_query_tower(
    tower: keras.Model, inputs: Mapping[str, np.ndarray], saved_model: Path, flatbuffer: Path
) -> None:
    """Writes the query tower as SavedModel and as LiteRT file, and checks both.

    Both have the signature ``serve``, with inputs by feature name and the output ``embedding``.

    Args:
        tower: Query tower, as `trainer.model.towers.build` makes it.
        inputs: Inputs of a few real queries by feature name, each [n, ...]; their embeddings are compared.
        saved_model: Folder to write.
        flatbuffer: LiteRT file to write.

    Raises:
        ExportError: An export cannot be written, lacks weights, or its embeddings differ by more than `TOLERANCE`.
    """
    try:
        _write(tower, saved_model, flatbuffer)
    except tf.errors.OpError as error:
        raise ExportError(f"cannot write {saved_model}: {error.message}; is the disk full?") from error
    _check(tower, inputs, saved_model, flatbuffer)


def _write(tower: keras.Model, saved_model: Path, flatbuffer: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(tower)
    signature = {name: tf.TensorSpec((None, *t.shape[1:]), t.dtype, name=name) for name, t in tower.input.items()}
    archive.add_endpoint(
        SIGNATURE, lambda features: {EMBEDDING: tower(features, training=False)}, input_signature=[signature]
    )
    archive.write_out(str(saved_model), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
    flatbuffer.write_bytes(converter.convert())


def _check(tower: keras.Model, inputs: Mapping[str, np.ndarray], saved_model: Path, flatbuffer: Path) -> None:
    parameter_bytes = sum(int(np.prod(w.shape)) * 4 for w in tower.trainable_weights)
    if flatbuffer.stat().st_size < parameter_bytes:
        raise ExportError(
            f"{flatbuffer.name} has {flatbuffer.stat().st_size} bytes, its weights alone need {parameter_bytes}: "
            "the conversion lost them"
        )
    expected = tower.predict(dict(inputs), verbose=0)
    with quiet_stderr():
        lite = InterpreterPool(flatbuffer, size=1).run(inputs)
    signatures = tf.saved_model.load(str(saved_model)).signatures
    saved = signatures[SIGNATURE](**{name: tf.constant(values) for name, values in inputs.items()})[EMBEDDING].numpy()
    for name, embeddings in ((flatbuffer.name, lite), (saved_model.name, saved)):
        difference = float(np.abs(embeddings - expected).max())
        if not difference <= TOLERANCE:  # NaN too
            raise ExportError(f"{name} differs from the trained tower by {difference:.2g}, allowed is {TOLERANCE:.0e}")
