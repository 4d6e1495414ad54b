"""Fills the store of live features from tables, with the profiles and histories from which `recommend` makes lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.string_table import Strings
from retrieval.bundle.features.event_kinds import EventValue, RequestTime
from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema, read_schema
from retrieval.bundle.layout import VOCABULARIES
from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.errors import FeatureStoreError
from retrieval.live_features.records import Event
from retrieval.store.store import BundleStore
from trainer.data.events import RELEVANCE
from trainer.errors import DataError, RecipeError, RunError
from trainer.progress import SILENT, Progress
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.recommending.histories import Histories
from trainer.recommending.users import Users

_USERS_AT_ONCE = 256
"""Number of users whose features are in memory, beside those that the writer has not written yet."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """Tables from which a store is filled.

    Attributes:
        users: Table with a row for each user. None: the users are those of the interactions, without a profile.
        interactions: Table of interactions with the columns of the recipe. None: profiles alone are stored.
    """

    users: Path | None
    interactions: Path | None


def load_features(
    store: BundleStore,
    version: str,
    tables: Tables,
    writer: BulkWriter,
    max_events: int,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Writes the profile and the newest events of each user, and returns what was written, as plain values.

    The id of an event follows from its row of the table, so what was written before is not written twice.

    Args:
        store: Store of the bundle.
        version: Bundle version. Its recipe names the columns, and its query tower the features.
        tables: Tables to read.
        writer: Writer of the store of live features, which is flushed and not closed.
        max_events: Largest number of events of a user that the store keeps.
        progress: Progress reporter.

    Raises:
        DataError: A table cannot be used, or a value cannot be stored; names file, column and row, or the user.
        RunError: No table is named, or the store of live features is full or away.
        BundleError: The bundle cannot be used.
        RecipeError: The recipe of the bundle cannot be read.
    """
    if tables.users is None and tables.interactions is None:
        raise RunError("nothing to load; name a table with --users, or one with --interactions, or both")
    recipe, schema = _read_bundle(store, version)
    histories, users = _read_tables(recipe, schema, tables, progress)
    counts = {"users": 0, "users_without_events": 0, "users_without_profile": 0, "events_beyond_limit": 0}
    try:
        with progress.counting("loading features", users.count) as advance:
            for batch in users.batches(_USERS_AT_ONCE):
                ids = users.ids(batch).to_list()
                profiles = _profiles(schema, users.queries(batch).columns, len(ids))
                for user_id, profile in zip(ids, profiles, strict=True):
                    events, older = ([], 0) if histories is None else newest_events(histories, user_id, max_events)
                    writer.put(user_id, profile, events)
                    counts["users"] += 1
                    counts["users_without_events"] += not events
                    counts["users_without_profile"] += not profile
                    counts["events_beyond_limit"] += older
                advance(len(ids))
            writer.flush()
    except FeatureStoreError as error:
        raise RunError(f"{error}\nwhat was written stays; run the command again, which writes nothing twice") from error
    except ValueError as error:
        raise DataError(f"cannot be stored: {error}") from error
    written = writer.written
    return {
        "bundle_version": version,
        **counts,
        "events_recorded": written.recorded,
        "events_already_there": written.already_there,
        "events_too_old": written.too_old,
    }


def newest_events(histories: Histories, user_id: str, count: int) -> tuple[list[Event], int]:
    """Returns the newest events of a user, oldest first, and the number of older ones.

    The id of an event is its time, and its number among the events of the user of this time. It stays the same when
    events of other times are added to the table, and ids of one time are in the order of the rows, as in the training.

    Args:
        histories: Histories of all users.
        user_id: Id of the user.
        count: Largest number of events.
    """
    (row,) = histories.rows_of([user_id]).tolist()
    start, end = histories.starts[row : row + 2].tolist()
    older = max(0, end - start - count)
    all_events, kept = histories.events, slice(start + older, end)
    times = np.array(all_events.times[start:end])
    numbers = np.arange(older, end - start) - np.searchsorted(times, times[older:])
    columns = {name: column[kept].tolist() for name, column in all_events.attributes.items() if name != RELEVANCE}
    fixed = zip(
        times[older:].tolist(),
        numbers.tolist(),
        all_events.items[kept].tolist(),
        all_events.weights[kept].tolist(),
        strict=True,
    )
    events: list[Event] = []
    for position, (time_s, number, item, weight) in enumerate(fixed):
        values = {name: column[position] for name, column in columns.items()}
        values = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
        event_id = f"table:{time_s!r}:{number:09}"
        events.append(Event(event_id, user_id, histories.item_ids[item], time_s, weight=weight, values=values))
    return events, older


def _read_bundle(store: BundleStore, version: str) -> tuple[Recipe, FeatureSchema]:
    """Returns the recipe of a bundle, and the schema of its query tower."""
    manifest = store.manifest(version)
    try:
        recipe = loading.parse_stored(manifest.recipe, f"the recipe in bundle {version}")
    except RecipeError as error:
        raise RecipeError(f"{error}\nthis trainer did not make the bundle: publish one with `train`") from error
    store.verify(version, [VOCABULARIES])
    return recipe, read_schema(store.path(version), manifest.feature_schema)


def _read_tables(
    recipe: Recipe, schema: FeatureSchema, tables: Tables, progress: Progress
) -> tuple[Histories | None, Users]:
    """Returns the histories and the users of the tables, after all rows were read once."""
    notes: list[str] = []
    with progress.working("reading") as tell:
        histories = None
        if tables.interactions is not None:
            tell(str(tables.interactions))
            histories = Histories.read(recipe, tables.interactions, notes)
        users = Users(tables.users, histories, recipe, schema, Strings.of(()))
        in_rows = [
            f.name for f in schema.features if isinstance(f, History | EventValue) and f.name not in users.missing
        ]
        if histories is None and in_rows:
            raise DataError(
                f"{tables.users}: the column {in_rows[0]!r} holds histories, and these are loaded from a table of "
                "interactions, which has the time of each event; name it with --interactions, and leave out the column"
            )
        if tables.users is not None:
            tell(str(tables.users))
        users.check(notes)
    for note in notes:
        progress.note(f"note: {note}")
    missing = [f.name for f in schema.features if _is_of_profile(f) and f.name in users.missing]
    if missing:
        progress.note(f"note: no column holds {', '.join(missing)}; requests may carry these features.")
    return histories, users


def _profiles(schema: FeatureSchema, columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, list[Any]]]:
    """Returns the raw values of each user's profile by name, without those that are missing: [count].

    Args:
        schema: Schema of the query tower.
        columns: Raw values by feature name, [count] each, as `trainer.recommending.users.Queries` has them.
        count: Number of users.
    """
    profiles: list[dict[str, list[Any]]] = [{} for _ in range(count)]
    for name, column in columns.items():
        if not _is_of_profile(schema.by_name[name]):
            continue
        for profile, value in zip(profiles, column, strict=True):
            values = value if isinstance(value, list) else [value]
            if values and values[0] is not None:
                profile[name] = values
    return profiles


def _is_of_profile(feature: object) -> bool:
    return not isinstance(feature, History | EventValue | RequestTime)
