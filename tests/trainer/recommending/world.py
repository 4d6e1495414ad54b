"""Bundles of films whose index is used, tables of viewers, and the lists that are written of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from retrieval.store.folder_store import FolderStore
from tests.worlds import write_bundle
from trainer.recipe import loading
from trainer.recommending.recommend import Wanted, recommend

ITEMS = 3000
RECIPE = loading.parse(
    {
        "name": "films",
        "interactions": {"path": "events.csv", "user": "viewer", "item": "film", "time": "at"},
        "users": {"path": "viewers.csv", "id": "viewer", "attributes": {"age": {"column": "years", "type": "int"}}},
        "query_tower": {"features": [{"name": "watched", "kind": "history", "max_values": 4}]},
        "item_tower": {"features": [{"name": "item_id", "kind": "categorical"}]},
    },
    "films",
)
"""Recipe of the bundles of `tests.worlds`, as far as a table of users and one of interactions need it."""


def films(store: FolderStore, shards: int = 1, **fields: Any) -> str:
    """Writes a live bundle with an index that is used, and returns its version."""
    manifest = write_bundle(
        store,
        item_count=ITEMS,
        shards=shards,
        manifest=lambda m: dataclasses.replace(m, recipe=RECIPE.to_json()),
        **fields,
    )
    return manifest.bundle_version


def viewers(count: int, seed: int = 1) -> pl.DataFrame:
    """Returns a table of users: features of all kinds, each missing for some, and histories of 0 to 29 films."""
    generator = np.random.default_rng(seed)
    watched = [
        [f"i{row}" for row in generator.integers(0, 60, generator.integers(1, 30))] if number % 5 else []
        for number in range(count)
    ]
    for number in range(1, count, 7):
        watched[number] = [*watched[number], "gone"]
    return pl.DataFrame(
        {
            "viewer": [f"v{number:05}" for number in range(count)],
            "years": [None if number % 6 == 0 else 18 + number % 50 for number in range(count)],
            "gender": [("f", "m", "unheard-of", None)[number % 4] for number in range(count)],
            "device": [None if number % 9 == 0 else number % 12 for number in range(count)],
            "likes": [(["comedy"], ["drama", "horror"], [], None)[number % 4] for number in range(count)],
            "watched": watched,
            "exclude_item_ids": [["i1999", "i2000"] if number % 3 == 0 else None for number in range(count)],
        },
        schema_overrides={"likes": pl.List(pl.String), "watched": pl.List(pl.String)},
    )


def wanted(users: Path | None, interactions: Path | None = None, **fields: Any) -> Wanted:
    plain: dict[str, Any] = {"k": 20, "repeats": None, "at_s": 1.8e9, "is_at_told": False}
    return Wanted(users, interactions, **{**plain, **fields})


def write_lists(store: FolderStore, users: Path | None, out: Path, *rest: Any, **fields: Any) -> dict[str, Any]:
    return recommend(store, store.live_version(), wanted(users, **fields), out, *rest)


def lists_of(out: Path) -> dict[str, tuple[list[str], list[float]]]:
    """Returns the items and scores of each user, after checking columns, order and ranks."""
    frame = pl.read_parquet(out)
    assert dict(frame.schema) == {"user_id": pl.String, "item_id": pl.String, "rank": pl.Int32, "score": pl.Float32}
    found: dict[str, tuple[list[str], list[float]]] = {}
    for (user,), rows in frame.group_by("user_id", maintain_order=True):
        assert rows["rank"].to_list() == list(range(1, rows.height + 1))
        found[str(user)] = rows["item_id"].to_list(), rows["score"].to_list()
    return found
