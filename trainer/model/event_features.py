"""Layer of the query tower for the event features of a history, such as the type or the age of an event."""

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
"""Number of bins of a time span. Each bin is twice as long as the one before, from under a second to over a century."""


@keras.saving.register_keras_serializable(package="two_tower")
class EventValues(keras.layers.Layer):
    """Computes from the features of an event a vector to add to the embedding of its item, and a weight of the event.

    Missing values contribute nothing. The projections are initially zero, so that training starts with items alone.

    Args:
        specs: Specification of each event feature, as `specs_of` returns it: ``name`` of the input, and ``kind``:
            ``categorical`` (with ``slot_count`` and ``embedding_dim``), ``numeric``, or ``times`` (with the booleans
            ``age`` and ``gap``, which tell whether the layer reads them).
        dimension: Dimension of the item embeddings.
        rate: Share of the rows of a training batch in which an input is dropped, 0 to 1.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]], dimension: int, rate: float, **kwargs: Any) -> None:
        # In half precision an age of a month has an error of days.
        super().__init__(**{**kwargs, "dtype": "float32"}, autocast=False)
        self.specs, self.dimension, self.rate = [dict(spec) for spec in specs], dimension, rate
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        """Creates the embedding tables and projections of all event features."""
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
        """Returns the inputs by name after feature dropout, with unchanged shapes.

        In training, each input is replaced by zeros (a missing value) in a random share `rate` of the rows.

        Args:
            inputs: Inputs as `call` takes them.
            training: Whether dropout is on.
        """
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
        """Returns the vector to add, followed by the weight of the event minus 1: [..., dimension + 1] float32.

        Args:
            inputs: Encoded event features by name, as `retrieval.bundle.features.event_kinds` encodes them: slots
                (embedding indices) [...] int32 of a categorical feature, [..., 2] float32 of a numeric feature, or
                [..., 4] float32 of the times.
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
        """Returns the embeddings of events, each a weighted item embedding plus the vector of its event features.

        Args:
            embeddings: [..., dimension], embedding of the item of each event.
            inputs: Encoded event features by name, see `call`.

        Returns:
            [..., dimension], in the dtype of `embeddings`.
        """
        added = ops.cast(self(inputs), embeddings.dtype)  # [..., dimension + 1]
        return embeddings * (1.0 + added[..., -1:]) + added[..., :-1]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        arguments = {"specs": self.specs, "dimension": self.dimension, "rate": self.rate}
        return {**super().get_config(), **arguments}


def _bins(pairs):
    """Returns the shares of each time span in the two bins next to log2(1 + seconds): [..., bins] float32.

    Shares are used because runtimes that round differently would choose different nearest bins.

    Args:
        pairs: [..., 2] float32: log2(1 + seconds), followed by 1, or by 0 for a missing span, whose shares are all 0.
    """
    position = ops.minimum(pairs[..., :1], _SPAN_BINS - 1.0)  # [..., 1]
    distance: Any = ops.abs(position - ops.arange(_SPAN_BINS, dtype="float32"))  # [..., bins]
    return ops.maximum(1.0 - distance, 0.0) * pairs[..., 1:]


def specs_of(given: HistoryInput, schema: FeatureSchema) -> list[dict[str, Any]]:
    """Returns the specification of each event feature of a history, in the form that `EventValues` takes.

    Args:
        given: History feature of the recipe.
        schema: Feature schema of the query tower.
    """
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
