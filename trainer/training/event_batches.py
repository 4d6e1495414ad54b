"""Computes the inputs of the event features of histories for the batches of `trainer.training.examples`."""

from __future__ import annotations

import numpy as np

from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryNumeric, HistoryTimes, encode_spans
from retrieval.bundle.features.schema import FeatureSchema
from trainer.data import spill
from trainer.data.events import Events
from trainer.features.event_schema import attribute_of
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe


class EventInputs:
    """Computes the inputs of `trainer.model.event_features.EventValues` for training events.

    An event gets the same values as in the history of a request in serving.

    Attributes:
        window_widths: Largest number of events in the history of a target, by the name of the history, for the
            histories that depend on the time of the request.
    """

    def __init__(self, recipe: Recipe, schema: FeatureSchema, events: Events, starts: np.ndarray) -> None:
        """Encodes all event features of the training events except times; large arrays are kept in files.

        Args:
            recipe: Recipe that names the histories and their event features.
            schema: Feature schema of the query tower.
            events: Training events, sorted by user, then time.
            starts: [user_count + 1] int64, row of the first event of each user, see `Events.starts`.
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
        """Returns the inputs of the histories that do not depend on the time of the request, for event sequences.

        The arrays are [batch, length, ...], by the name of the history, then the event feature.

        Args:
            rows: [batch, length] int64, rows of the training events; any valid row where `inside` is false.
            inside: [batch, length] bool, false for padding, whose inputs are zeros.
        """
        return {
            history: self._of(history, rows, inside, None)
            for history in self._features
            if history not in self.window_widths
        }

    def of_windows(self, history: str, rows: np.ndarray, inside: np.ndarray, targets: np.ndarray) -> dict:
        """Returns the inputs of a history that depends on the time of the request, for the histories of n targets.

        The arrays are [n, width, ...], by the name of the event feature.

        Args:
            history: Name of the history.
            rows: [n, width] int64, rows of the training events in each history; any valid row where `inside` is false.
            inside: [n, width] bool, false for padding, whose inputs are zeros.
            targets: [n] int64, rows of the targets, whose times are the times of the requests.
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
                mask = inside[..., None] if values.ndim > inside.ndim else inside
                inputs[feature.name] = values * mask.astype(values.dtype)
        return inputs

    def _spans(self, rows: np.ndarray, inside: np.ndarray, request_times: np.ndarray | None) -> np.ndarray:
        """Returns the encoded times of events: [..., 4] float32: age, presence of the age, gap, presence of the gap.

        Args:
            rows: [...] int64, rows of the training events.
            inside: [...] bool, false for padding.
            request_times: Time of the request for each event, in seconds since 1970; None if no history reads ages.
        """
        times = np.where(inside, self._times[rows], np.nan)
        first = self._starts[self._users[rows]] == rows  # the first event of a user has no gap
        gaps = np.where(first, np.nan, times - self._times[np.maximum(rows - 1, 0)])
        ages = np.full(times.shape, np.nan) if request_times is None else request_times[:, None] - times
        return np.concatenate([encode_spans(ages), encode_spans(gaps)], axis=-1)


def _encode(feature: HistoryCategorical | HistoryNumeric, schema: FeatureSchema, events: Events) -> np.ndarray:
    """Returns an event feature, encoded: slots [n] int32, or numbers with their presence [n, 2] float32."""
    column = events.attributes[attribute_of(feature)]
    if isinstance(feature, HistoryNumeric):
        return spill.compute(len(events), np.float32, lambda block: feature.encode_events(column[block].tolist()), 2)
    slots = schema.slots(feature)
    return spill.compute(len(events), np.int32, lambda block: feature.encode_events(column[block].tolist(), slots))
