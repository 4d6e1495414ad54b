"""The command `recommend`, which writes a list of items for every user to Parquet."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainer.cli import console
from trainer.cli.rich_progress import RichProgress, format_duration
from trainer.cli.store_commands import Json, Store, find_version, open_store, print_json


def recommend(
    *,
    store: Store,
    out: Path,
    users: Path | None = None,
    interactions: Path | None = None,
    bundle: str = "live",
    k: int = 100,
    repeats: Annotated[bool | None, Parameter(negative="--no-repeats")] = None,
    at: datetime | None = None,
    as_json: Json = False,
) -> None:
    """Write the k best items of every user to Parquet, as both services would answer, without running them.

    From the tables of the training: `python -m trainer recommend --store store --users users.csv --interactions
    events.csv --out lists.parquet`

    From a table that has the histories itself: `python -m trainer recommend --store store --users users.parquet --out
    lists.parquet`

    The result is a folder of Parquet files with a row for each item of a list: user_id, item_id, rank (1 is the best)
    and score. A stopped command leaves the folder OUT.partial; the same command goes on where it stopped. Memory
    hardly grows with the number of users, but for the distinct ids of --interactions.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        out: Folder to write, such as lists.parquet; it must not exist.
        users: Table with a row for each user that gets a list: CSV, Parquet, or a folder of Parquet files. Its columns
            are those of the recipe's users table, or have the names of the query tower's features, such as history: a
            list of item ids, oldest first (in CSV ["a", "b"] or a|b). A column exclude_item_ids lists further items to
            leave out. A feature without a column is missing. Default: every user of --interactions gets a list.
        interactions: Table of interactions with the columns of the recipe, from which histories are made. Default: the
            histories are columns of --users.
        bundle: Version of the bundle, as `bundles` lists it, or live.
        k: Number of items of a list, 1 to 10,000.
        repeats: List items that are in the history of the user too. Default: split.repeats of the recipe.
        at: Time of the requests, for models that read it, such as 2026-11-24T18:00:00; UTC unless it names a zone.
            Default: now.
        as_json: Print the result as JSON on stdout.
    """
    # Imported here, because polars and LiteRT take time, and other commands do not need both.
    from trainer.recommending.recommend import Wanted
    from trainer.recommending.recommend import recommend as write_lists

    started = time.monotonic()
    opened = open_store(store)
    told_s = None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    wanted = Wanted(users, interactions, k, repeats, time.time() if told_s is None else told_s, told_s is not None)
    version = find_version(opened, None if bundle == "live" else bundle)
    try:
        result = write_lists(opened, version, wanted, out, RichProgress())
    except KeyboardInterrupt:
        console.console.print("stopped; the same command goes on after the parts that are complete")
        raise
    seconds = time.monotonic() - started
    console.console.print(
        f"{out}: {result['rows']:,} rows for {result['users']:,} users in {result['parts']:,} files, by bundle "
        f"{result['bundle_version']}, in {format_duration(seconds)}"
    )
    print_json({**result, "seconds": round(seconds, 1)}, as_json)
