"""Summary of a data set in figures and notes, shown before a training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trainer.data import data_checks
from trainer.data.dataset import Dataset, Events
from trainer.data.splits import Data, Parts
from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class Spread:
    """Distribution of the number of events of a user or an item, without those that have none.

    Attributes:
        median: Median number of events.
        p95: 95th percentile of the number of events.
        largest: Largest number of events.
    """

    median: float
    p95: float
    largest: int

    @staticmethod
    def of(counts: np.ndarray) -> Spread:
        """Returns the distribution of the counts [n] int64, without zeros."""
        positive = counts[counts > 0]
        return Spread(float(np.median(positive)), float(np.percentile(positive, 95)), int(positive.max()))


@dataclass(frozen=True)
class Part:
    """One part of the split.

    Attributes:
        event_count: Number of events of the part.
        cold_user_share: Share of its events whose user has no training event.
        cold_item_share: Share of its events whose item has no training event.
    """

    event_count: int
    cold_user_share: float
    cold_item_share: float


@dataclass(frozen=True)
class Summary:
    """A data set in figures.

    Attributes:
        user_count: Number of users of the interactions and the users table.
        item_count: Number of items of the catalogue.
        event_count: Number of events.
        pair_count: Number of distinct (user, item) pairs of the events.
        density: Share of these pairs in all possible pairs.
        first: Time of the oldest event, ISO 8601 in UTC; None if the events have no times.
        last: Time of the newest event, ISO 8601 in UTC; None if the events have no times.
        events_per_user: Distribution of the number of events of a user.
        events_per_item: Distribution of the number of events of an item.
        users_without_events: Number of users that are only in the users table.
        items_without_events: Number of items that are only in the items table.
        split: Kind of the split.
        parts: Figures of ``train``, ``valid`` and ``test``.
        notes: Sentences about the data, among them probable mistakes.
    """

    user_count: int
    item_count: int
    event_count: int
    pair_count: int
    density: float
    first: str | None
    last: str | None
    events_per_user: Spread
    events_per_item: Spread
    users_without_events: int
    items_without_events: int
    split: str
    parts: dict[str, Part]
    notes: tuple[str, ...]

    @staticmethod
    def of(recipe: Recipe, data: Data) -> Summary:
        """Returns the summary of a data set and its split."""
        dataset, parts = data
        events, user_count, item_count = dataset.events, len(dataset.user_ids), len(dataset.items.ids)
        per_user = np.diff(events.starts(user_count))
        per_item = events.item_counts(item_count)
        pair_count = events.pair_count
        has_times = recipe.interactions.time is not None
        return Summary(
            user_count,
            item_count,
            len(events),
            pair_count,
            pair_count / (user_count * item_count),
            _time_text(events.times.min()) if has_times else None,
            _time_text(events.times.max()) if has_times else None,
            Spread.of(per_user),
            Spread.of(per_item),
            int((per_user == 0).sum()),
            int((per_item == 0).sum()),
            recipe.split.kind,
            {name: _part(parts.train, getattr(parts, name), dataset) for name in ("train", "valid", "test")},
            (*dataset.notes, *_note_irrelevant(recipe, events, parts), *data_checks.find_mistakes(recipe, dataset)),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as plain values."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, str]]:
        """Returns the figures as rows of a table: name and text."""

        def spread(counts: Spread) -> str:
            return f"median {counts.median:,.0f}, 95th percentile {counts.p95:,.0f}, most {counts.largest:,}"

        times = "none: the order of the rows counts" if self.first is None else f"{self.first} to {self.last}"
        train, valid, test = (self.parts[name] for name in ("train", "valid", "test"))
        return [
            ("interactions", f"{self.event_count:,}, {self.pair_count:,} distinct pairs, density {self.density:.2%}"),
            ("users", f"{self.user_count:,}, {self.users_without_events:,} of them without interactions"),
            ("items", f"{self.item_count:,}, {self.items_without_events:,} of them without interactions"),
            ("times", times),
            ("interactions a user", spread(self.events_per_user)),
            ("interactions an item", spread(self.events_per_item)),
            (
                f"split {self.split}",
                f"{train.event_count:,} train, {valid.event_count:,} valid, {test.event_count:,} test",
            ),
            ("of users without training", f"{valid.cold_user_share:.1%} of valid, {test.cold_user_share:.1%} of test"),
            ("of items without training", f"{valid.cold_item_share:.1%} of valid, {test.cold_item_share:.1%} of test"),
        ]


def _note_irrelevant(recipe: Recipe, events: Events, parts: Parts) -> list[str]:
    count = 0 if events.irrelevant is None else len(events.irrelevant)
    left_out = count - (0 if parts.irrelevant is None else len(parts.irrelevant))
    return [
        f"{count:,} interactions have {recipe.interactions.relevance} 0: they are labelled negatives, and "
        f"are not counted elsewhere. {left_out:,} of them are among the held-out events, and are left out."
    ][:count]


def _part(train: Events, part: Events, dataset: Dataset) -> Part:
    known_users = np.diff(train.starts(len(dataset.user_ids))) > 0
    known_items = train.item_counts(len(dataset.items.ids)) > 0
    cold_users = int(np.diff(part.starts(len(known_users)))[~known_users].sum())
    cold_items = int(part.item_counts(len(known_items))[~known_items].sum())
    return Part(len(part), cold_users / len(part), cold_items / len(part))


def _time_text(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999: the unit is not seconds
        return f"{time:.0f} s since 1970"
