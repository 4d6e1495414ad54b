"""The command `load-features`, which fills the store of live features from tables."""

from __future__ import annotations

import time
from pathlib import Path

from trainer.cli import console
from trainer.cli.rich_progress import RichProgress, format_duration
from trainer.cli.store_commands import Json, Store, find_version, open_store, print_json
from trainer.errors import RunError


def load_features(
    *,
    store: Store,
    features: str,
    users: Path | None = None,
    interactions: Path | None = None,
    bundle: str = "live",
    features_max_events: int = 1000,
    features_keep_days: float = 90.0,
    features_prefix: str = "two-tower",
    features_password_file: Path | None = None,
    as_json: Json = False,
) -> None:
    """Fill the store of live features from the tables of the training, so that requests need a user id alone.

    `python -m trainer load-features --store store --users users.csv --interactions events.csv --features
    redis://localhost:6379/0`

    The profile of each user of --users is replaced, and the newest events of --interactions are added to the histories.
    A stopped command can be run again: what is there is not written twice. Needs the extra redis.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        features: Store of live features, as the query tower service is told with --features:
            redis://HOST:PORT/DATABASE, rediss:// (TLS) or unix:///PATH.
        users: Table with a row for each user: CSV, Parquet, or a folder of Parquet files, with the columns of the
            recipe's users table, or with the names of the query tower's features. Default: the users of --interactions,
            without a profile.
        interactions: Table of interactions with the columns of the recipe. Default: profiles alone are stored.
        bundle: Version of the bundle, as `bundles` lists it, or live. Its recipe names the columns.
        features_max_events: Newest events of a user that are kept, as the query tower service is told.
        features_keep_days: Days after the last write of a user after which all of it is deleted, as the query tower
            service is told.
        features_prefix: Begin of every key, as the query tower service is told.
        features_password_file: File that holds the password of the store of live features.
        as_json: Print the result as JSON on stdout.
    """
    try:
        from retrieval.live_features.bulk import BulkWriter
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise RunError("load-features needs the extra redis: pip install 'two-tower-retrieval[redis]'") from error
    from retrieval.live_features.errors import FeatureStoreError
    from retrieval.live_features.records import StoreLimits
    from trainer.recommending import stored_users

    started = time.monotonic()
    opened = open_store(store)
    version = find_version(opened, None if bundle == "live" else bundle)
    tables = stored_users.Tables(users, interactions)
    try:
        limits = StoreLimits(features_max_events, features_keep_days, features_prefix)
        writer = BulkWriter(features, limits, features_password_file)
    except (ValueError, FeatureStoreError) as error:
        raise RunError(str(error)) from error
    try:
        result = stored_users.load_features(opened, version, tables, writer, limits.max_events, RichProgress())
        writer.close()
    except KeyboardInterrupt:
        console.console.print("stopped; the same command goes on, and writes nothing twice")
        raise
    seconds = time.monotonic() - started
    c = {name: f"{count:,}" for name, count in result.items() if isinstance(count, int)}
    console.console.print(
        f"{c['users']} users and {c['events_recorded']} events stored, {c['events_already_there']} events were there "
        f"already, by bundle {version}, in {format_duration(seconds)}"
    )
    beyond = result["events_beyond_limit"] + result["events_too_old"]
    notes = {
        f"{c['users_without_events']} of {c['users']} users have no events.": result["users_without_events"],
        f"{c['users_without_profile']} of {c['users']} users have no profile.": result["users_without_profile"],
        f"{beyond:,} events are older than the newest {limits.max_events:,} of their user, and are not stored.": beyond,
    }
    for note, count in notes.items():
        if count:
            console.console.print(f"note: {note}")
    print_json({**result, "seconds": round(seconds, 1)}, as_json)
