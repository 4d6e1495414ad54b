"""The event features of a history inside the query tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryTimes
from retrieval.bundle.features.schema import FeatureSchema
from trainer.model.slot_embedding import look_up
from trainer.recipe.feature_inputs import AgeInput, CategoricalEventInput, GapInput, HistoryInput

_SPAN_BINS = 32
"""Number of bins of a time span, each twice as long as the one before: from under a second to over a century."""


@keras.saving.register_keras_serializable(package="two_tower")
class EventValues(keras.layers.Layer):
    """Turns the features of an event into a vector that is added to the embedding of its item, and a weight.

    Missing values contribute nothing. The projections are initially zero, so that training starts with items alone.

    Args:
        specs: Specification of each event feature, as `specs_of` returns it: ``name`` of the input, and ``kind``:
            ``categorical`` (with ``slot_count`` and ``embedding_dim``), ``numeric``, or ``times`` (with ``age`` and
            ``gap``: whether each is read).
        dimension: Dimension of the item embeddings.
        rate: Share of the rows in which an input is dropped in training.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]], dimension: int, rate: float, **kwargs: Any) -> None:
        # In half precision an age of a month has an error of days.
        super().__init__(**{**kwargs, "dtype": "float32"}, autocast=False)
        self.specs, self.dimension, self.rate = [dict(spec) for spec in specs], dimension, rate
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        """Creates embedding tables and projections."""
        width = self.dimension + 1
        self.parts: dict[str, Any] = {}
        for spec in self.specs:
            name = spec["name"].replace(".", "_")
            if spec["kind"] == "categorical":
                self.parts[f"{name}_embeddings"] = self.add_weight(
                    shape=(spec["slot_count"], spec["embedding_dim"]),
                    initializer=keras.initializers.RandomNormal(stddev=spec["embedding_dim"] ** -0.5),
                    name=f"{name}_embeddings",
                )
                self._projection(name, spec["embedding_dim"], width)
            elif spec["kind"] == "numeric":
                self._projection(name, 2, width)
            for span in ("age", "gap"):
                if spec.get(span):
                    self._projection(f"{name}_{span}", _SPAN_BINS, width)
        self.built = True

    def _projection(self, name: str, rows: int, width: int) -> None:
        self.parts[name] = self.add_weight(shape=(rows, width), initializer="zeros", name=name)

    def drop(self, inputs: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Returns the inputs; in training each of them is missing in some of the rows (feature dropout)."""
        if not training or not self.rate:
            return dict(inputs)
        dropped: dict[str, Any] = {}
        for spec in self.specs:
            values = inputs[spec["name"]]
            shape = (ops.shape(values)[0],) + (1,) * (len(values.shape) - 1)
            kept = keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
            dropped[spec["name"]] = values * ops.cast(kept, values.dtype)
        return dropped

    def call(self, inputs):
        """Returns the vector that is added and the weight of the event minus 1: [..., dimension + 1] float32.

        Args:
            inputs: By name: [...] int32 slots of a categorical feature, [..., 2] float32 of a numeric feature, or
                [..., 4] float32 of the times, as `retrieval.bundle.features.event_kinds` encodes them.
        """
        total: Any = 0.0
        for spec in self.specs:
            name, values = spec["name"].replace(".", "_"), inputs[spec["name"]]
            if spec["kind"] == "categorical":
                embeddings = look_up(self.parts[f"{name}_embeddings"], values)  # [..., embedding_dim]
                known = ops.cast(ops.expand_dims(values, -1) > 0, "float32")  # [..., 1]
                total = total + ops.matmul(embeddings * known, self.parts[name])  # [..., dimension + 1]
            elif spec["kind"] == "numeric":
                total = total + ops.matmul(values, self.parts[name])
            for span, start in (("age", 0), ("gap", 2)):
                if spec.get(span):
                    total = total + ops.matmul(_bins(values[..., start : start + 2]), self.parts[f"{name}_{span}"])
        return total

    def apply_to(self, embeddings, inputs):
        """Returns the embeddings of events: [..., dimension].

        Args:
            embeddings: [..., dimension], of the items of the events.
            inputs: See `call`.
        """
        added = ops.cast(self(inputs), embeddings.dtype)  # [..., dimension + 1]
        return embeddings * (1.0 + added[..., -1:]) + added[..., :-1]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        arguments = {"specs": self.specs, "dimension": self.dimension, "rate": self.rate}
        return {**super().get_config(), **arguments}


def _bins(pairs):
    """Returns the binned spans: [..., bins] float32, shares of the two bins next to log2(1 + seconds).

    Shares are used because runtimes that round differently would choose different nearest bins.

    Args:
        pairs: [..., 2] float32: log2(1 + seconds), and 1, or 0 where the span is missing, which gives zeros.
    """
    position = ops.minimum(pairs[..., :1], _SPAN_BINS - 1.0)  # [..., 1]
    distance: Any = ops.abs(position - ops.arange(_SPAN_BINS, dtype="float32"))  # [..., bins]
    return ops.maximum(1.0 - distance, 0.0) * pairs[..., 1:]


def specs_of(given: HistoryInput, schema: FeatureSchema) -> list[dict[str, Any]]:
    """Returns the specifications of the event features of a history, for `EventValues`."""
    dims = {
        value.name: value.embedding_dim for value in given.event_features if isinstance(value, CategoricalEventInput)
    }
    specs: list[dict[str, Any]] = []
    for feature in schema.event_values(given.name):
        spec: dict[str, Any] = {"name": feature.name, "kind": feature.kind.removeprefix("history_")}
        if isinstance(feature, HistoryCategorical):
            spec["slot_count"] = schema.slots(feature).slot_count
            spec["embedding_dim"] = dims[feature.name.partition(".")[2]]
        elif isinstance(feature, HistoryTimes):
            spec["age"] = any(isinstance(value, AgeInput) for value in given.event_features)
            spec["gap"] = any(isinstance(value, GapInput) for value in given.event_features)
        specs.append(spec)
    return specs
