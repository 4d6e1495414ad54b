"""Text encoders that are trained with the towers: token ids instead of vectors, until the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bundle.features import FeatureSchema
from bundle.texts import Text, TextEncoderSpec
from trainer.schema import Schemas
from trainer.text.encoders import KerasText
from trainer.text.layers import static_vectors


@dataclass(frozen=True)
class _TokenIds:
    """In place of an encoder: gives what it takes, so that the step can run it."""

    encoder: KerasText

    @property
    def spec(self) -> TextEncoderSpec:
        """Of the encoder."""
        return self.encoder.spec

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, max_tokens] int32."""
        return self.encoder.token_ids(texts)


class TrainedTexts:
    """The encoders of a training that learn, and the features that they make.

    Attributes:
        models: each once.
        schemas: the towers' schemas, with token ids in place of the vectors of these encoders.
        rates: learning rate of each variable that is not the towers' own, by its identity.
    """

    def __init__(self, schemas: Schemas) -> None:
        """Finds them."""
        sides = (schemas.query, schemas.item)
        found = {n: e for side in sides for n, e in side.encoders.items() if isinstance(e, KerasText) and e.rate}
        self.models = [encoder.model for encoder in found.values()]
        self.rates = {id(v): float(e.rate or 0) for e in found.values() for v in e.model.trainable_variables}
        self.schemas = Schemas(*(_with_token_ids(side, found) for side in sides))
        self._by_feature = [
            {f.name: found[f.encoder] for f in side.features if isinstance(f, Text) and f.encoder in found}
            for side in sides
        ]

    def query(self, inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Returns the query tower's inputs, token ids made vectors."""
        return _encoded(self._by_feature[0], inputs, training)

    def item(self, inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Returns the item tower's inputs, token ids made vectors."""
        return _encoded(self._by_feature[1], inputs, training)


class LayeredAdamW(keras.optimizers.AdamW):
    """AdamW with a learning rate of its own for some variables; they are not decayed towards zero.

    Args:
        schedule: of the learning rate.
        rates: start value by identity of the variable; it follows the schedule of the others.
        rate: start value of all others.
    """

    def __init__(self, schedule: Any, rates: Mapping[int, float], rate: float, **kwargs: Any) -> None:
        super().__init__(schedule, **kwargs)
        self._own = {key: own / rate for key, own in rates.items()}
        self._factors: list[float] = []

    def build(self, variables: Any) -> None:
        """Makes the state of the variables."""
        if not self.built:
            self._factors = [self._own.get(id(v), 1.0) for v in variables]
            self.exclude_from_weight_decay([v for v in variables if id(v) in self._own])
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable."""
        # A variable comes here as TensorFlow's own; Keras knows its place among those it was built with.
        super().update_step(gradient, variable, learning_rate * self._factors[self._get_variable_index(variable)])


def _with_token_ids(schema: FeatureSchema, trained: Mapping[str, KerasText]) -> FeatureSchema:
    encoders = {name: _TokenIds(trained[name]) if name in trained else e for name, e in schema.encoders.items()}
    return FeatureSchema(schema.features, schema.vocabularies, encoders)


def _encoded(encoders: Mapping[str, KerasText], inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
    encoded = dict(inputs)
    for name, encoder in encoders.items():
        ids = inputs[name]
        # Nothing behind the longest text of the batch.
        length = tf.reduce_max(tf.reduce_sum(tf.cast(ids != encoder.spec.pad_id, tf.int32), axis=1))
        # Each text once: a batch holds all products of a query.
        distinct, place = tf.raw_ops.UniqueV2(x=ids[:, : tf.maximum(length, 1)], axis=[0])
        distinct = tf.ensure_shape(distinct, (None, None))
        if encoder.spec.kind == "static":
            vectors = static_vectors(encoder.model, distinct, encoder.spec.pad_id)
        else:
            vectors = encoder.model(distinct, training=training)
        encoded[name] = tf.gather(vectors, place)
    return encoded
