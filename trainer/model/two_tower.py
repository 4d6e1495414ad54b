"""Both towers in training: a step is queries, candidates, a loss."""

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
    """What the item tower makes of the items of a step.

    Attributes:
        raw: [m, dim] floats, in the precision of the towers, before the length is made 1.
        vectors: [m, dim] float32, unit length.
        place: [n] int32, of each asked item in both.
    """

    raw: tf.Tensor
    vectors: tf.Tensor
    place: tf.Tensor


class TwoTower(keras.Model):
    """Queries and items of a batch, and the loss that a recipe names.

    Attributes:
        query_tower: as of `trainer.model.towers.build`.
        item_tower: likewise.
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
        """Makes what the loss needs.

        Args:
            query_tower: to fit.
            item_tower: to fit.
            recipe: names the loss, and what a history is made of.
            catalogue: inputs of the item tower of all items, each [item_count, ...].
            slots: [item_count] int32, of each item in a history.
            counts: [item_count] training events of each item.
            texts: the text encoders that are trained too; they take token ids, which `catalogue` and batches hold.
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
        # Not a dict of tensors: keras would keep one in another order than the tower's inputs are in.
        self._catalogue = [(name, tf.constant(catalogue[name])) for name in item_tower.both.input]
        self._item_count = len(counts)
        self.log_temperature = self.add_weight(
            name="log_temperature",
            initializer=keras.initializers.Constant(float(np.log(training.temperature))),
            trainable=training.learn_temperature,
        )
        self.objective = objectives.build(training, counts, item_tower.model.output_shape[-1])

    def embed_queries(self, batch: Mapping[str, Any], training: bool) -> tf.Tensor:
        """Returns [n, dim] float32, unit length: of a batch of `trainer.training.examples.Examples`."""
        return self._queries(batch, self._items_of(batch, batch["item"][:1], training), training)

    def _items_of(self, batch: Mapping[str, Any], more: tf.Tensor, training: bool) -> Items:
        """Returns what the item tower makes of the items of a step, each once: `more` [n], then histories."""
        rows = more
        if self._of_tower:
            rows = tf.concat([more, tf.reshape(batch["items"], [-1])], 0)
        unique, place = tf.unique(rows)
        return Items(*self._both_of(unique, training), place)

    def _both_of(self, rows: tf.Tensor | None, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns raw and vectors, as of `Items`, of catalogue rows [n]; None: of all."""
        inputs = {name: values if rows is None else tf.gather(values, rows) for name, values in self._catalogue}
        encoded = self._texts.item(inputs, training)
        raw, vectors = self._both({name: encoded[name] for name in inputs}, training=training)
        return raw, vectors

    def _queries(self, batch: Mapping[str, Any], items: Items, training: bool) -> tf.Tensor:
        parts = self._texts.query(batch["others"], training)
        for name, encoder in self._parts.histories.items():
            slots, values, embeddings = batch["histories"][name], batch["values"].get(name), None
            if name in batch["windows"]:
                if name in self._of_tower:
                    place = items.place[-tf.size(batch["items"]) :]
                    embeddings = tf.gather(items.raw, tf.gather(place, batch["windows"][name]))  # [n, max_values, dim]
                parts[name] = encoder(slots, values, embeddings, training=training)
                continue
            if name in self._of_tower:
                shape = tf.shape(batch["items"])
                place = items.place[-shape[0] * shape[1] :]
                embeddings = tf.reshape(tf.gather(items.raw, place), [shape[0], shape[1], items.raw.shape[1]])
            encoded = encoder.prefixes(slots, values, embeddings, training=training)  # [batch, length, dim]
            parts[name] = tf.gather(tf.reshape(encoded, [-1, encoded.shape[2]]), batch["at"])
        return self._parts.join({name: parts[name] for name in self._parts.join.input}, training=training)

    def fill_tables(self) -> None:
        """Writes what the item tower makes of each item into the histories that are made of that."""
        if not self._of_tower:
            return
        raw = np.concatenate(
            [
                np.array(
                    self._both_of(tf.range(start, min(start + _BATCH, self._item_count)), training=False)[0], np.float32
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

        Of several devices, each embeds its own part of the batch, and all have the loss of the whole: the negatives of
        a row are those of all parts.
        """
        pairs = Pairs(*devices.of_all(batch["item"], batch["weight"], batch["label"], batch["log_q"]))
        # Below 0.01 the loss of single examples explodes.
        temperature = tf.maximum(tf.exp(self.log_temperature), 0.01)
        draw = self.objective.draw(batch)
        items, positives, negatives = self._items_and_candidates(batch, draw)
        queries, positives = devices.of_all(self._queries(batch, items, training=True), positives)
        return self.objective.loss(queries, positives, negatives, draw, pairs, temperature)

    def _items_and_candidates(self, batch: Mapping[str, Any], draw: Draw | None) -> tuple[Items, tf.Tensor, tf.Tensor]:
        """Returns the items of a step, its positives [n, dim] and its negatives [c, dim]: those drawn, or all items."""
        own = batch["item"]
        if draw is None:
            items = Items(*self._both_of(None, training=True), tf.reshape(batch["items"], [-1]))
            return items, tf.gather(items.vectors, own), items.vectors
        items = self._items_of(batch, tf.concat([own, tf.maximum(draw.rows, 0)], 0), training=True)
        count = tf.size(own)
        vectors = tf.gather(items.vectors, items.place[: count + tf.size(draw.rows)])  # [n + c, dim]
        return items, vectors[:count], vectors[count:]

    def train_on(self, batch: Mapping[str, Any]) -> tf.Tensor:
        """Returns the loss of a batch, after one step of the optimizer on it."""
        with tf.GradientTape() as tape:
            loss = self.compute_step_loss(batch)
            # The optimizer adds up what the devices have. Scaled is the loss of float16: small gradients would vanish.
            scaled = self.optimizer.scale_loss(loss / devices.count())
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss
