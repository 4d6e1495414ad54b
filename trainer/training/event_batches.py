"""What is known of the events of histories, for the batches of `trainer.training.examples`."""

from __future__ import annotations

import numpy as np

from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryNumeric, HistoryTimes, encode_spans
from retrieval.bundle.features.schema import FeatureSchema
from trainer.data import spill
from trainer.data.events import Events
from trainer.features.event_features import attribute_of
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe


class EventInputs:
    """The inputs of `trainer.model.event_features.EventValues`, of any events: what a request with the same lists becomes.

    Attributes:
        window_widths: by history that depends on the time of the request, how many events each target sees.
    """

    def __init__(self, recipe: Recipe, schema: FeatureSchema, events: Events, starts: np.ndarray) -> None:
        """Encodes all but times, in files where they are large.

        Args:
            recipe: names the histories.
            schema: of the query tower.
            events: the training events.
            starts: of each user's, as of `Events.starts`.
        """
        histories = [feature for feature in recipe.query_tower.features if isinstance(feature, HistoryInput)]
        self._times = events.times
        self._starts, self._users = starts, events.users
        self._features = {h.name: values for h in histories if (values := schema.event_values(h.name))}
        self._encoded: dict[str, np.ndarray] = {}
        for feature in (f for features in self._features.values() for f in features):
            if not isinstance(feature, HistoryTimes):
                self._encoded[feature.name] = _encode(feature, schema, events)
        self.window_widths = {h.name: h.max_values for h in histories if h.reads_ages}

    def of_sequences(self, rows: np.ndarray, inside: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Returns the inputs by history, then feature, of histories that do not depend on the time of the request.

        Args:
            rows: [batch, length] of the training events, any number where `inside` is false.
            inside: [batch, length] bool, false at padding, which is zeros.
        """
        return {
            history: self._of(history, rows, inside, None)
            for history in self._features
            if history not in self.window_widths
        }

    def of_windows(self, history: str, rows: np.ndarray, inside: np.ndarray, targets: np.ndarray) -> dict:
        """Returns the inputs of a history by feature, each [n, width, ...].

        Args:
            history: its name.
            rows: [n, width] of the training events, any row where `inside` is false.
            inside: [n, width] bool, false at padding, which is zeros.
            targets: [n] rows: the request is made at the time of each.
        """
        return self._of(history, rows, inside, self._times[targets])

    def _of(
        self, history: str, rows: np.ndarray, inside: np.ndarray, request_times: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        rows = np.where(inside, rows, 0)
        inputs: dict[str, np.ndarray] = {}
        for feature in self._features[history]:
            if isinstance(feature, HistoryTimes):
                inputs[feature.name] = self._spans(rows, inside, request_times)
            else:
                values = self._encoded[feature.name][rows]
                shown = inside[..., None] if values.ndim > inside.ndim else inside
                inputs[feature.name] = values * shown.astype(values.dtype)
        return inputs

    def _spans(self, rows: np.ndarray, inside: np.ndarray, request_times: np.ndarray | None) -> np.ndarray:
        """Returns age, its presence, gap, its presence: [..., 4] float32."""
        times = np.where(inside, self._times[rows], np.nan)
        first = self._starts[self._users[rows]] == rows  # of its user: it has no gap
        gaps = np.where(first, np.nan, times - self._times[np.maximum(rows - 1, 0)])
        ages = np.full(times.shape, np.nan) if request_times is None else request_times[:, None] - times
        return np.concatenate([encode_spans(ages), encode_spans(gaps)], axis=-1)


def _encode(feature: HistoryCategorical | HistoryNumeric, schema: FeatureSchema, events: Events) -> np.ndarray:
    """Returns the input of each event: [n] int32 or [n, 2] float32."""
    column = events.attributes[attribute_of(feature)]
    if isinstance(feature, HistoryNumeric):
        return spill.compute(len(events), np.float32, lambda at: feature.encode_events(column[at].tolist()), 2)
    slots = schema.slots(feature)
    return spill.compute(len(events), np.int32, lambda at: feature.encode_events(column[at].tolist(), slots))
