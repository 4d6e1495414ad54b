"""Joins the tables of a served log: events are what users did, queries and lists say what they were shown.

```
queries: key, time, user_id, features ──┐ newest query of the user before the event ─► features of the request
lists:   key, time, item_ids ───────────┤ by key: who was shown which items, and which of them nobody used
events:  event_id, user_id, item_id, time, type, weight, values ─► interactions
```

A list counts if its user used one of its items within `WINDOW_S`: of a list of which nothing was used, nobody knows
whether it was seen. The items above the last used one were passed over, and become events of relevance 0: "skip above"
(Joachims et al. 2005, "Accurately Interpreting Clickthrough Data as Implicit Feedback"). An item that the user used at
any time is never one of them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import polars as pl

from trainer.data.table_files import show
from trainer.errors import DataError

WINDOW_S = 1800.0
"""Longest time from a query to an event that follows from it, in seconds."""
_LIST_AFTER_S = 60.0
"""Longest time from a query to the search with its embedding, in seconds."""
_FEATURES = "features."
"""Begin of the name of a column that is a feature of the request."""
_REMOVE = "remove the file from the served log"

_TEXT, _NUMBER = pl.String(), pl.Float64()
_EVENTS: Mapping[str, pl.DataType] = {
    "event_id": _TEXT,
    "user_id": _TEXT,
    "item_id": _TEXT,
    "time": _NUMBER,
    "type": _TEXT,
    "weight": _NUMBER,
    "values": _TEXT,
}
_QUERIES: Mapping[str, pl.DataType] = {"key": pl.Int64(), "time": _NUMBER, "user_id": _TEXT, "features": _TEXT}
_LISTS: Mapping[str, pl.DataType] = {"key": pl.Int64(), "time": _NUMBER, "item_ids": pl.List(pl.String())}


def read(folder: Path, columns: Sequence[str], lists_in: Container[str], notes: list[str]) -> pl.DataFrame:
    """Returns the interactions of a served log: by time, and by event id where times are equal.

    Args:
        folder: Folder of the log.
        columns: Columns to return: those of the events, values of the events by name, and features of the request as
            ``features.`` and their name. Values and features are text, null where missing.
        lists_in: Those of the columns that are lists; their cells are as JSON writes them.
        notes: List to which a note is added on what was joined.

    Raises:
        DataError: There are no events, or a part cannot be used; names it.
    """
    logged = _table(folder, "events", _EVENTS)
    if logged is None:
        raise DataError(
            f"{folder}: no events; record them with RecordEvents at a query tower service with --served-log, or name "
            "another folder"
        )
    events = logged.unique(("user_id", "event_id"), keep="first", maintain_order=True).sort("time", "event_id")
    queries, lists = _table(folder, "queries", _QUERIES), _table(folder, "lists", _LISTS)
    events = events.with_columns(pl.lit(1.0).alias("relevance"))
    told = f"{events.height:,} events ({logged.height - events.height:,} more were logged twice)"
    if queries is not None:
        queries = queries.filter(pl.col("user_id") != "").sort("time")
        asked = queries.select("user_id", "time", "features")
        events = events.join_asof(
            asked, on="time", by="user_id", strategy="backward", tolerance=WINDOW_S, check_sortedness=False
        )
        told += f", {events['features'].count():,} of them after a query of the user"
    else:
        events = events.with_columns(pl.lit(None, pl.String).alias("features"))
    if queries is not None and lists is not None:
        passed = _passed_over(events, queries, lists)
        told += f"; {passed.height:,} items were passed over in {lists.height:,} lists"
        events = pl.concat([events, passed], how="diagonal").sort("time", "event_id", maintain_order=True)
    notes.append(f"{folder}: {told}.")
    return events.select(_column(name, is_list=name in lists_in) for name in columns)


def _table(folder: Path, name: str, columns: Mapping[str, pl.DataType]) -> pl.DataFrame | None:
    """Returns a table of the log; None if nothing was written.

    Raises:
        DataError: A part cannot be used; names it.
    """
    parts = [_part(path, columns) for path in sorted((folder / name).glob("*.parquet"))]
    frame = pl.concat(parts) if parts else pl.DataFrame()
    return None if frame.is_empty() else frame


def _part(path: Path, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Returns a part of a table, with values in all cells.

    Raises:
        DataError: It cannot be read, or is not as the services write it.
    """
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = lazy.collect_schema()
        for name, dtype in columns.items():
            if schema.get(name) != dtype:
                found = f"is of type {schema[name]}" if name in schema else "is missing"
                raise DataError(f"{path}: column {name!r} {found}, expected {dtype}; write it so, or {_REMOVE}")
        frame = lazy.select(*columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: cannot be read: {why}; copy it anew, or {_REMOVE}") from None
    for name, dtype in columns.items():
        bad = ~frame[name].is_finite().fill_null(value=False) if dtype == _NUMBER else frame[name].is_null()
        if bad.any():
            row = bad.arg_true()[0]
            raise DataError(
                f"{path}, column {name!r}: row {row + 1}: {show(frame[name][row])}, expected a value of type {dtype}; "
                f"fill it in, or {_REMOVE}"
            )
    return frame


def _passed_over(events: pl.DataFrame, queries: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """Returns the items that users passed over, as events of relevance 0, each item of a user once."""
    asked = queries.select("key", "time", "user_id", "features")
    shown = lists.sort("time").join_asof(
        asked, on="time", by="key", strategy="backward", tolerance=_LIST_AFTER_S, check_sortedness=False
    )
    shown = shown.filter(pl.col("user_id").is_not_null()).with_row_index("list")
    ranks = pl.int_ranges(pl.col("item_ids").list.len()).alias("rank")
    shown = shown.with_columns(ranks).explode("item_ids", "rank").rename({"item_ids": "item_id"})
    pair = ("user_id", "item_id")
    uses = shown.join(events.select(*pair, pl.col("time").alias("used_at")), on=pair)
    uses = uses.filter(pl.col("used_at").is_between(pl.col("time"), pl.col("time") + WINDOW_S))
    last = uses.group_by("list").agg(pl.col("rank").max().alias("last_used"))
    passed = shown.join(last, on="list").filter(pl.col("rank") < pl.col("last_used"))
    passed = passed.join(events.select(pair), on=pair, how="anti").sort("time", "rank")
    passed = passed.unique(pair, keep="first", maintain_order=True)
    return passed.select(
        *pair,
        "time",
        "features",
        pl.lit("").alias("event_id"),
        pl.lit("").alias("type"),
        pl.lit(1.0).alias("weight"),
        pl.lit(0.0).alias("relevance"),
    )


def _column(name: str, *, is_list: bool) -> pl.Expr:
    """Returns a column of the interactions."""
    if name in (*_EVENTS, "relevance") and name != "values":
        return pl.col(name)
    if not name.startswith(_FEATURES):
        return pl.col("values").str.json_path_match(_path(name)).alias(name)
    path = _path(name.removeprefix(_FEATURES)) + ("" if is_list else "[0]")
    return pl.col("features").str.json_path_match(path).alias(name)


def _path(name: str) -> str:
    return f'$["{name}"]'
