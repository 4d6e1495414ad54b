"""What a person should know of a data set before the towers are fitted to it."""

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
    """How many events those have that have any.

    Attributes:
        median: half have at most so many.
        p95: 95 % have at most so many.
        largest: of all.
    """

    median: float
    p95: float
    largest: int

    @staticmethod
    def of(counts: np.ndarray) -> Spread:
        """Returns the spread of `counts` [n] int64, those above 0."""
        met = counts[counts > 0]
        return Spread(float(np.median(met)), float(np.percentile(met, 95)), int(met.max()))


@dataclass(frozen=True)
class Part:
    """One part of the split.

    Attributes:
        event_count: of the part.
        cold_user_share: of its events, whose user has no training event.
        cold_item_share: of its events, whose item has no training event.
    """

    event_count: int
    cold_user_share: float
    cold_item_share: float


@dataclass(frozen=True)
class Summary:
    """A data set in figures.

    Attributes:
        user_count: of the interactions and the users table.
        item_count: of the catalogue.
        event_count: of all interactions that count.
        pair_count: distinct (user, item) pairs among them.
        density: pairs of all that there could be.
        first: time of the oldest event, ISO 8601 in UTC; None where there are no times.
        last: of the newest.
        events_per_user: of those with an event.
        events_per_item: of those with an event.
        users_without_events: known from the users table alone.
        items_without_events: of the catalogue: only attributes can tell where they belong.
        split: its kind.
        parts: ``train``, ``valid`` and ``test``.
        notes: what looks suspicious, a sentence each.
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
            _moment(events.times.min()) if has_times else None,
            _moment(events.times.max()) if has_times else None,
            Spread.of(per_user),
            Spread.of(per_item),
            int((per_user == 0).sum()),
            int((per_item == 0).sum()),
            recipe.split.kind,
            {name: _part(parts.train, getattr(parts, name), dataset) for name in ("train", "valid", "test")},
            (*dataset.notes, *_mismatches(recipe, events, parts), *data_checks.find(recipe, dataset)),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as plain values."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, str]]:
        """Returns the figures for people: what, and how much."""

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


def _mismatches(recipe: Recipe, events: Events, parts: Parts) -> list[str]:
    count = 0 if events.mismatches is None else len(events.mismatches)
    left_out = count - (0 if parts.mismatches is None else len(parts.mismatches))
    return [
        f"{count:,} interactions have {recipe.interactions.relevance} 0: training learns them as no match, and nothing "
        f"else counts them. {left_out:,} of them stand among what is held out, and are left out."
    ][:count]


def _part(train: Events, part: Events, dataset: Dataset) -> Part:
    known_users = np.diff(train.starts(len(dataset.user_ids))) > 0
    known_items = train.item_counts(len(dataset.items.ids)) > 0
    cold_users = int(np.diff(part.starts(len(known_users)))[~known_users].sum())
    cold_items = int(part.item_counts(len(known_items))[~known_items].sum())
    return Part(len(part), cold_users / len(part), cold_items / len(part))


def _moment(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999: the unit is not seconds
        return f"{time:.0f} s since 1970"
