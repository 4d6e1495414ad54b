"""The two-tower model in training: embeds queries and items of a batch, and computes the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from retrieval.bundle.features.vocabulary import FIRST_VALUE
from trainer.model import devices, objectives
from trainer.model.objectives import Draw, Pairs
from trainer.model.towers import ItemTower, QueryTower
from trainer.model.trained_texts import TrainedTexts
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe

_BATCH = 4096


class Items(NamedTuple):
    """Embeddings of the distinct items of a step.

    Attributes:
        raw: [m, dim] floats in the precision of the towers, embeddings before normalisation.
        vectors: [m, dim] float32, embeddings of unit length.
        position: [n] int32, index of each requested item in `raw` and `vectors`.
    """

    raw: tf.Tensor
    vectors: tf.Tensor
    position: tf.Tensor


class TwoTower(keras.Model):
    """Both towers together with the loss that a recipe names.

    Attributes:
        query_tower: Keras model of the query tower.
        item_tower: Keras model of the item tower.
        text_models: Keras models of the text encoders that are trained with the towers.
        objective: Training objective: loss function and its state.
    """

    def __init__(
        self,
        query_tower: QueryTower,
        item_tower: ItemTower,
        recipe: Recipe,
        catalogue: Mapping[str, np.ndarray],
        slots: np.ndarray,
        counts: np.ndarray,
        texts: TrainedTexts,
    ) -> None:
        """Creates the model with the objective and the temperature that the recipe sets.

        Args:
            query_tower: Query tower to train.
            item_tower: Item tower to train.
            recipe: Recipe that names the loss and the item embeddings of histories.
            catalogue: Inputs of the item tower for the whole catalogue: by feature name, each [item_count, ...].
            slots: [item_count] int32, slot (embedding index) by which a history refers to each item.
            counts: [item_count] int64, number of training events of each item.
            texts: Text encoders to train with the towers; `catalogue` and batches hold token ids for them.
        """
        super().__init__()
        self._texts, self.text_models = texts, texts.models
        training = recipe.training
        self.query_tower, self.item_tower = query_tower.model, item_tower.model
        self._parts, self._both = query_tower, item_tower.both
        self._slots = slots
        self._of_tower = [
            f.name for f in recipe.query_tower.features if isinstance(f, HistoryInput) and f.items == "tower"
        ]
        # A list, because Keras reorders dicts of tensors, and the tower's inputs have an order.
        self._catalogue = [(name, tf.constant(catalogue[name])) for name in item_tower.both.input]
        self._item_count = len(counts)
        self.log_temperature = self.add_weight(
            name="log_temperature",
            initializer=keras.initializers.Constant(float(np.log(training.temperature))),
            trainable=training.learn_temperature,
        )
        self.objective = objectives.build(training, counts, item_tower.model.output_shape[-1])

    def embed_queries(self, batch: Mapping[str, Any], training: bool) -> tf.Tensor:
        """Returns the embeddings of the queries of a batch: [n, dim] float32, unit length.

        Args:
            batch: Training batch, as `trainer.training.examples.Examples.batch` returns it.
            training: Whether dropout is on.
        """
        return self._queries(batch, self._embed_items(batch, batch["item"][:1], training), training)

    def _embed_items(self, batch: Mapping[str, Any], rows: tf.Tensor, training: bool) -> Items:
        """Returns the embeddings of catalogue rows [n] int32.

        The items of histories with ``items = "tower"`` follow them.
        """
        if self._of_tower:
            rows = tf.concat([rows, tf.reshape(batch["items"], [-1])], 0)
        unique, position = tf.unique(rows)
        return Items(*self._run_item_tower(unique, training), position)

    def _run_item_tower(self, rows: tf.Tensor | None, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns embeddings of items before normalisation and with unit length: both [n, dim].

        Args:
            rows: [n] int32, catalogue rows of the items; None for the whole catalogue.
            training: Whether dropout is on.
        """
        inputs = {name: values if rows is None else tf.gather(values, rows) for name, values in self._catalogue}
        encoded = self._texts.item(inputs, training)
        raw, vectors = self._both({name: encoded[name] for name in inputs}, training=training)
        return raw, vectors

    def _queries(self, batch: Mapping[str, Any], items: Items, training: bool) -> tf.Tensor:
        """Returns the embeddings of the queries of a batch: [n, dim] float32, unit length.

        Args:
            batch: Training batch.
            items: Embeddings of the items of the batch and of its histories.
            training: Whether dropout is on.
        """
        parts = self._texts.query(batch["others"], training)
        for name, encoder in self._parts.histories.items():
            slots, values, embeddings = batch["histories"][name], batch["values"].get(name), None
            if name in batch["windows"]:
                if name in self._of_tower:
                    position = items.position[-tf.size(batch["items"]) :]
                    embeddings = tf.gather(
                        items.raw, tf.gather(position, batch["windows"][name])
                    )  # [n, max_values, dim]
                parts[name] = encoder(slots, values, embeddings, training=training)
                continue
            if name in self._of_tower:
                shape = tf.shape(batch["items"])
                position = items.position[-shape[0] * shape[1] :]
                # [batch, length, dim]
                embeddings = tf.reshape(tf.gather(items.raw, position), [shape[0], shape[1], items.raw.shape[1]])
            encoded = encoder.prefixes(slots, values, embeddings, training=training)  # [batch, length, dim]
            parts[name] = tf.gather(tf.reshape(encoded, [-1, encoded.shape[2]]), batch["position"])  # [n, dim]
        return self._parts.join({name: parts[name] for name in self._parts.join.input}, training=training)

    def fill_tables(self) -> None:
        """Writes the item embeddings into the embedding tables of the histories with ``items = "tower"``.

        The embeddings are the outputs of the item tower before normalisation.
        """
        if not self._of_tower:
            return
        raw = np.concatenate(
            [
                np.array(
                    self._run_item_tower(tf.range(start, min(start + _BATCH, self._item_count)), training=False)[0],
                    np.float32,
                )
                for start in range(0, self._item_count, _BATCH)
            ]
        )
        for name in self._of_tower:
            table = self._parts.histories[name].table.embeddings
            values = np.zeros(table.shape, dtype=np.float32)
            known = self._slots >= FIRST_VALUE
            values[self._slots[known]] = raw[known]
            table.assign(values)

    def compute_step_loss(self, batch: Mapping[str, Any]) -> tf.Tensor:
        """Returns the loss of a batch, a scalar, with dropout on.

        With several devices, each embeds its own part of the batch, and all compute the loss of the whole batch, so
        that the negatives of a row come from all parts.

        Args:
            batch: Training batch, as `trainer.training.examples.Examples.batch` returns it.
        """
        pairs = Pairs(*devices.gather_all(batch["item"], batch["weight"], batch["label"], batch["log_q"]))
        # Below 0.01 single examples dominate the loss.
        temperature = tf.maximum(tf.exp(self.log_temperature), 0.01)
        draw = self.objective.draw(batch)
        items, positives, negatives = self._items_and_candidates(batch, draw)
        queries, positives = devices.gather_all(self._queries(batch, items, training=True), positives)
        return self.objective.loss(queries, positives, negatives, draw, pairs, temperature)

    def _items_and_candidates(self, batch: Mapping[str, Any], draw: Draw | None) -> tuple[Items, tf.Tensor, tf.Tensor]:
        """Returns the embeddings of a step: all items, the positives [n, dim], and the negatives [c, dim].

        Args:
            batch: Training batch.
            draw: Negatives of the step; None for the whole catalogue.
        """
        own = batch["item"]
        if draw is None:
            items = Items(*self._run_item_tower(None, training=True), tf.reshape(batch["items"], [-1]))
            return items, tf.gather(items.vectors, own), items.vectors
        items = self._embed_items(batch, tf.concat([own, tf.maximum(draw.rows, 0)], 0), training=True)
        count = tf.size(own)
        vectors = tf.gather(items.vectors, items.position[: count + tf.size(draw.rows)])  # [n + c, dim]
        return items, vectors[:count], vectors[count:]

    def train_on(self, batch: Mapping[str, Any]) -> tf.Tensor:
        """Makes one optimizer step with a batch and returns its loss before the step, a scalar."""
        with tf.GradientTape() as tape:
            loss = self.compute_step_loss(batch)
            # The optimizer sums the gradients of the devices. The loss is scaled in float16, where small gradients
            # would vanish.
            scaled = self.optimizer.scale_loss(loss / devices.count())
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss
