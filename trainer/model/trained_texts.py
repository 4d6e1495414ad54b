"""Text encoders that are trained with the towers: batches hold token ids, which a training step turns into vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from retrieval.bundle.features.text import TextEncoders, TextEncoderSpec
from trainer.features.schemas import Schemas
from trainer.text.encoders import KerasText
from trainer.text.layers import static_vectors


@dataclass(frozen=True)
class _TokenIds:
    """Replacement of a text encoder that returns token ids, so that a training step can run the encoder itself.

    Attributes:
        encoder: Text encoder that is trained with the towers.
    """

    encoder: KerasText

    @property
    def spec(self) -> TextEncoderSpec:
        """Specification of the replaced encoder."""
        return self.encoder.spec

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns the token ids of texts: [n, max_tokens] int32, right-padded."""
        return self.encoder.token_ids(texts)


class TrainedTexts:
    """The text encoders that are trained with the towers.

    Attributes:
        models: Keras model of each of these encoders.
        schemas: Schemas of the towers, in which the trained text encoders are replaced by ones that return token ids.
        rates: Learning rate of each variable of these encoders, by the `id` of the variable.
    """

    def __init__(self, schemas: Schemas) -> None:
        """Selects the encoders to train.

        Args:
            schemas: Feature schemas of both towers; its text encoders with a learning rate are trained.
        """
        encoders = schemas.text_encoders.by_name
        trained = {name: e for name, e in encoders.items() if isinstance(e, KerasText) and e.rate}
        self.models = [encoder.model for encoder in trained.values()]
        self.rates = {id(v): float(e.rate or 0) for e in trained.values() for v in e.model.trainable_variables}
        replaced = [_TokenIds(trained[name]) if name in trained else e for name, e in encoders.items()]
        self.schemas = dataclasses.replace(schemas, text_encoders=TextEncoders(tuple(replaced)))
        self._by_feature = [
            {feature.name: trained[feature.encoder] for feature in side.texts if feature.encoder in trained}
            for side in (schemas.query, schemas.item)
        ]

    def query(self, inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Returns the inputs of the query tower by name, token ids [n, max_tokens] encoded as vectors [n, width]."""
        return _encoded(self._by_feature[0], inputs, training)

    def item(self, inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Returns the inputs of the item tower by name, token ids [n, max_tokens] encoded as vectors [n, width]."""
        return _encoded(self._by_feature[1], inputs, training)


class LayeredAdamW(keras.optimizers.AdamW):
    """AdamW optimizer with separate learning rates for some variables, to which it applies no weight decay.

    Args:
        schedule: Schedule of the learning rate.
        rates: Initial learning rates by the `id` of the variable; they follow the same schedule.
        rate: Initial learning rate of all other variables.
    """

    def __init__(self, schedule: Any, rates: Mapping[int, float], rate: float, **kwargs: Any) -> None:
        super().__init__(schedule, **kwargs)
        self._own = {key: own / rate for key, own in rates.items()}
        self._factors: list[float] = []

    def build(self, variables: Any) -> None:
        """Creates the optimizer state of the variables."""
        if not self.built:
            self._factors = [self._own.get(id(v), 1.0) for v in variables]
            self.exclude_from_weight_decay([v for v in variables if id(v) in self._own])
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable by its gradient.

        Args:
            gradient: Gradient of the loss, with the shape of the variable.
            variable: Variable to update.
            learning_rate: Learning rate of the step, which is scaled if the variable has its own rate.
        """
        if isinstance(gradient, tf.IndexedSlices) and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            gradient = _summed(gradient)
        # `variable` is a TensorFlow variable here; Keras maps it to its index in the list that `build` received.
        super().update_step(gradient, variable, learning_rate * self._factors[self._get_variable_index(variable)])


def _summed(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns the gradient with each row once. A row that several devices have is one gradient, and squared as one."""
    rows, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _encoded(encoders: Mapping[str, KerasText], inputs: Mapping[str, Any], training: bool) -> dict[str, Any]:
    encoded = dict(inputs)
    for name, encoder in encoders.items():
        ids = inputs[name]
        # Padding beyond the longest text of the batch is cut off.
        length = tf.reduce_max(tf.reduce_sum(tf.cast(ids != encoder.spec.pad_id, tf.int32), axis=1))
        # Each distinct text is encoded once, as the rows of a batch repeat texts.
        distinct, position = tf.raw_ops.UniqueV2(x=ids[:, : tf.maximum(length, 1)], axis=[0])
        distinct = tf.ensure_shape(distinct, (None, None))
        if encoder.spec.kind == "static":
            vectors = static_vectors(encoder.model, distinct, encoder.spec.pad_id)
        else:
            vectors = encoder.model(distinct, training=training)
        encoded[name] = tf.gather(vectors, position)  # [n, width]
    return encoded
