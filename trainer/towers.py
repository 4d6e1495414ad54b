"""The towers, built from their schemas; both end in a vector of unit length."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from bundle.features import FeatureSchema, History, MultiCategorical, Numeric
from bundle.vocabulary import FIRST_VALUE, OUT_OF_VOCABULARY, PADDING
from trainer.losses import in_batch_softmax
from trainer.recipe import ITEM_ID, Recipe, Tower
from trainer.schema import ITEMS, Schemas

_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class SlotDropout(keras.layers.Layer):
    """Hides values in training: a slot becomes out-of-vocabulary, so that this slot learns to stand for any value.

    Args:
        rate: share of values to hide.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, slots, training=False):
        """Returns [...] int32 slots; padding stays."""
        if not training or not self.rate:
            return slots
        hidden = keras.random.uniform(ops.shape(slots), seed=self.seed_generator) < self.rate
        return ops.where(ops.logical_and(hidden, ops.not_equal(slots, PADDING)), OUT_OF_VOCABULARY, slots)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class PresenceDropout(keras.layers.Layer):
    """Hides numbers in training: (value, 1) becomes (0, 0), as where it is missing.

    Args:
        rate: share of rows to hide.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, pairs, training=False):
        """Returns [batch, 2] float32."""
        if not training or not self.rate:
            return pairs
        kept = keras.random.uniform((ops.shape(pairs)[0], 1), seed=self.seed_generator) >= self.rate
        return pairs * ops.cast(kept, pairs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class MaskedMean(keras.layers.Layer):
    """The mean of the embeddings of a list, padding left out; zero for an empty list."""

    def call(self, embeddings, slots):
        """Returns [batch, dim] float32 of embeddings [batch, n, dim] and slots [batch, n]."""
        mask = ops.expand_dims(ops.cast(ops.not_equal(slots, PADDING), embeddings.dtype), -1)  # [batch, n, 1]
        return ops.sum(embeddings * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def build(recipe: Recipe, schemas: Schemas) -> tuple[keras.Model, keras.Model]:
    """Returns query tower and item tower: inputs by feature name, output [batch, dimension] float32, unit length.

    They share one table of item embeddings: a history is the mean of what its items are to the item tower.
    """
    vocabularies = {**schemas.query.vocabularies, **schemas.item.vocabularies}
    slot_count = vocabularies[ITEMS].slot_count if ITEMS in vocabularies else FIRST_VALUE
    table = _embedding(slot_count, recipe.training.dimension, ITEMS)
    return (
        _tower("query_tower", recipe.query_tower, schemas.query, recipe, table),
        _tower("item_tower", recipe.item_tower, schemas.item, recipe, table),
    )


def _embedding(slot_count: int, dimension: int, name: str) -> keras.layers.Embedding:
    return keras.layers.Embedding(
        slot_count, dimension, embeddings_initializer=keras.initializers.RandomNormal(stddev=dimension**-0.5), name=name
    )


def _tower(name: str, spec: Tower, schema: FeatureSchema, recipe: Recipe, table: keras.layers.Embedding) -> keras.Model:
    """Returns ``unit(direct + mlp(all))``: the items' own embeddings pass by the hidden layers, which correct them."""
    inputs: dict[str, keras.KerasTensor] = {}
    encoded: list[keras.KerasTensor] = []
    direct: list[keras.KerasTensor] = []
    for feature, given in zip(schema.features, spec.features, strict=True):
        dtype = "float32" if isinstance(feature, Numeric) else "int32"
        tensor = inputs[feature.name] = keras.Input(feature.input_shape, dtype=dtype, name=feature.name)
        if isinstance(feature, Numeric):
            encoded.append(PresenceDropout(given.dropout, name=f"{name}_{feature.name}_dropout")(tensor))
            continue
        slots = SlotDropout(given.dropout, name=f"{name}_{feature.name}_dropout")(tensor)
        is_item = isinstance(feature, History) or feature.name == ITEM_ID
        if is_item:
            embeddings = table(slots)
        else:
            slot_count = schema.slots(feature).slot_count
            embeddings = _embedding(slot_count, given.embedding_dim, f"{name}_{feature.name}")(slots)
        if isinstance(feature, History | MultiCategorical):
            embeddings = MaskedMean(name=f"{name}_{feature.name}_mean")(embeddings, slots)
        encoded.append(embeddings)
        if is_item:
            direct.append(embeddings)
    hidden = keras.layers.Concatenate()(encoded) if len(encoded) > 1 else encoded[0]
    for units in spec.hidden_units:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
        hidden = keras.layers.Dropout(spec.dropout)(hidden)
    output = keras.layers.Dense(recipe.training.dimension)(hidden)
    if direct:
        output = keras.layers.Add()([output, *direct])
    return keras.Model(inputs, keras.layers.UnitNormalization(name="embedding")(output), name=name)


class TwoTower(keras.Model):
    """Both towers in training; `fit` takes the batches of `trainer.examples.Examples`.

    Attributes:
        query_tower: as of `build`.
        item_tower: as of `build`.
    """

    def __init__(
        self, query_tower: keras.Model, item_tower: keras.Model, temperature: float, *, learn_temperature: bool
    ) -> None:
        super().__init__()
        self.query_tower, self.item_tower = query_tower, item_tower
        self.log_temperature = self.add_weight(
            name="log_temperature",
            initializer=keras.initializers.Constant(float(ops.log(temperature))),
            trainable=learn_temperature,
        )
        self.loss_mean = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What `fit` resets at each epoch."""
        return [self.loss_mean]

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns the mean loss so far, after one step on `data`."""
        with tf.GradientTape() as tape:
            loss = in_batch_softmax(
                self.query_tower(data["query"], training=True),
                self.item_tower(data["item"], training=True),
                data["item_row"],
                data["log_q"],
                data["weight"],
                # Below 0.01 the loss of single examples explodes.
                tf.maximum(tf.exp(self.log_temperature), 0.01),
            )
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.loss_mean.update_state(loss)
        return {"loss": self.loss_mean.result(), "temperature": tf.exp(self.log_temperature)}
