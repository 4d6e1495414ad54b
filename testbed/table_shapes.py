"""CSV tables of different shapes, as a person might export them: real ones, samples of them, and made worlds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from trainer.data import download
from trainer.recipe import loading

_SEED = 20261129
_SHOP_USERS, _SHOP_ITEMS, _SHOP_EVENTS = 30_000, 4_000, 150_000
_WALK_USERS, _WALK_ITEMS, _WALK_LENGTH = 8_000, 2_500, 15


@dataclass(frozen=True)
class Tables:
    """The tables of a data set; paths are None where there is no such table."""

    interactions: Path
    items: Path | None = None
    users: Path | None = None


@dataclass(frozen=True)
class Shape:
    """A data set.

    Attributes:
        what: What it is, in a few words.
        write: Writes the tables into a folder. The second argument is the folder of ``Beauty.txt``.
        needs_beauty: Whether the second argument is used.
        shipped: Name of the shipped recipe for the same data; empty if there is none.
    """

    what: str
    write: Callable[[Path, Path], Tables]
    needs_beauty: bool = False
    shipped: str = ""


def movielens(folder: Path, _: Path, *, users: int | None = None, newest: int | None = None, draw: int = 0) -> Tables:
    """Writes MovieLens-100k, of some users drawn at random, and of each the newest events, unless None.

    Another `draw` gives other users.
    """
    source = _downloaded("movielens_100k")
    events, items, people = (
        pl.read_csv(source / f"ml-100k.{kind}", separator="\t", quote_char=None, infer_schema=False)
        for kind in ("inter", "item", "user")
    )
    events = _sample(events.sort("timestamp:float", maintain_order=True), "user_id:token", users, draw)
    if newest is not None:
        events = events.group_by("user_id:token", maintain_order=True).tail(newest)
    items = items.with_columns(pl.col("class:token_seq").str.replace_all(" ", "|"))
    return _write(folder, events, items, people)


def beauty(folder: Path, source: Path, *, users: int | None = None, items: int | None = None) -> Tables:
    """Writes Amazon Beauty, of some users or of the items with the most events, unless None."""
    rows = [line.split() for line in (source / "Beauty.txt").read_text().splitlines()]
    events = pl.DataFrame(
        {"reviewer": [row[0] for row in rows for _ in row[1:]], "asin": [item for row in rows for item in row[1:]]}
    )
    events = _sample(events, "reviewer", users)
    if items is not None:
        most = events["asin"].value_counts(sort=True).head(items)["asin"]
        events = events.filter(pl.col("asin").is_in(most.implode()))
        events = events.filter(pl.len().over("reviewer") >= 3)
    attributes = json.loads((source / "Beauty_item2attributes.json").read_text())
    table = pl.DataFrame({"asin": list(attributes), "tags": ["|".join(map(str, a)) for a in attributes.values()]})
    return _write(folder, events, table.filter(pl.col("asin").is_in(events["asin"].unique().implode())))


def journey(folder: Path, _: Path, *, households: int, products: int) -> Tables:
    """Writes purchases of The Complete Journey, of some households and of the products that are bought the most."""
    source = _downloaded("complete_journey")
    events = pl.read_parquet(source / "transactions.parquet").select(
        "household_id", "product_id", pl.col("transaction_timestamp").alias("bought_at")
    )
    most = events["product_id"].value_counts(sort=True).head(products)["product_id"]
    events = _sample(events.filter(pl.col("product_id").is_in(most.implode())), "household_id", households)
    return _write(
        folder,
        events,
        pl.read_parquet(source / "products.parquet").filter(pl.col("product_id").is_in(most.implode())),
        pl.read_parquet(source / "demographics.parquet"),
    )


def shop(folder: Path, _: Path) -> Tables:
    """Writes purchases of a made shop: a few events a user, tastes for categories and brands, a long tail, repeats."""
    generator = np.random.default_rng(_SEED)
    categories, brands = 40, 150
    category = generator.integers(0, categories, _SHOP_ITEMS)
    brand = (category * 7 + generator.integers(0, 12, _SHOP_ITEMS)) % brands
    popularity = generator.permutation(1 / np.arange(1, _SHOP_ITEMS + 1) ** 0.8)
    style = generator.normal(size=(_SHOP_ITEMS, 6))
    count = np.minimum(1 + generator.pareto(1.4, _SHOP_USERS) * 2.2, 60)
    count = np.maximum(1, np.round(count * _SHOP_EVENTS / count.sum())).astype(int)
    rows: list[tuple[int, int, float]] = []
    for user, events in enumerate(count):
        liked = generator.choice(categories, 3, replace=False)
        taste = generator.normal(size=6)
        weight = popularity * np.where(np.isin(category, liked), 30.0, 1.0) * np.exp(0.5 * style @ taste)
        weight *= np.where(np.isin(brand, generator.choice(brands, 8)), 3.0, 1.0)
        items = generator.choice(_SHOP_ITEMS, events, p=weight / weight.sum())
        times = np.sort(generator.uniform(1.735e9, 1.766e9, events))
        rows += zip([user] * events, items, times, strict=True)
    events = pl.DataFrame(rows, schema=["customer_id", "sku", "ordered_at"], orient="row")
    events = events.with_columns(pl.format("P{}", "sku").alias("sku"), pl.col("ordered_at").round(0))
    items = pl.DataFrame(
        {
            "sku": [f"P{item}" for item in range(_SHOP_ITEMS)],
            "name": [f"Article {item}" for item in range(_SHOP_ITEMS)],
            "category": [f"category {number}" for number in category],
            "brand": [f"brand {number}" for number in brand],
            "price": np.round(np.exp(generator.normal(3, 0.7, _SHOP_ITEMS)), 2),
        }
    )
    return _write(folder, events, items)


def walk(folder: Path, _: Path) -> Tables:
    """Writes walks through a made graph: the next item depends on the newest one alone, and no item has attributes."""
    generator = np.random.default_rng(_SEED)
    following = generator.integers(0, _WALK_ITEMS, (_WALK_ITEMS, 12))
    here = generator.integers(0, _WALK_ITEMS, _WALK_USERS)
    steps = []
    for step in range(_WALK_LENGTH):
        steps.append(pl.DataFrame({"session": np.arange(_WALK_USERS), "page": here, "time": 1.7e9 + 60.0 * step}))
        chosen = np.minimum(generator.geometric(0.3, _WALK_USERS) - 1, following.shape[1] - 1)
        random = generator.integers(0, _WALK_ITEMS, _WALK_USERS)
        here = np.where(generator.random(_WALK_USERS) < 0.1, random, following[here, chosen])
    return _write(folder, pl.concat(steps).sort("session", "time"))


SHAPES: Mapping[str, Shape] = {
    "movielens": Shape("943 people, 1,682 films, 100,000 ratings", movielens, shipped="movielens_100k"),
    "movielens_200_users": Shape("200 of the people", lambda f, s: movielens(f, s, users=200)),
    **{
        f"movielens_200_users_{draw}": Shape(
            f"200 of the people, draw {draw}", lambda f, s, draw=draw: movielens(f, s, users=200, draw=draw)
        )
        for draw in range(2, 5)
    },
    "movielens_newest_20": Shape("the newest 20 ratings of each", lambda f, s: movielens(f, s, newest=20)),
    "beauty": Shape("22,363 users, 12,101 items, 198,502 reviews", beauty, True, "amazon_beauty"),
    "beauty_2000_users": Shape("2,000 of the users", lambda f, s: beauty(f, s, users=2000), True),
    "beauty_1500_items": Shape("the 1,500 items with the most reviews", lambda f, s: beauty(f, s, items=1500), True),
    "journey_300_households": Shape(
        "300 households, the 2,000 products bought the most", lambda f, s: journey(f, s, households=300, products=2000)
    ),
    "shop": Shape("a made shop, 30,000 users, 4,000 items", shop),
    "walk": Shape("made walks, 8,000 sessions, 2,500 items", walk),
}
"""All data sets by name."""


def _downloaded(name: str) -> Path:
    recipe = loading.load(name)
    assert recipe.download is not None
    return download.fetch(recipe.download, download.cache_folder())


def _sample(events: pl.DataFrame, column: str, count: int | None, draw: int = 0) -> pl.DataFrame:
    if count is None:
        return events
    chosen = events[column].unique().sort().sample(count, seed=_SEED + draw)
    return events.filter(pl.col(column).is_in(chosen.implode()))


def _write(
    folder: Path, events: pl.DataFrame, items: pl.DataFrame | None = None, users: pl.DataFrame | None = None
) -> Tables:
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path | None] = []
    for name, table in (("interactions", events), ("items", items), ("users", users)):
        paths.append(None if table is None else folder / f"{name}.csv")
        if table is not None:
            table.write_csv(folder / f"{name}.csv")
    assert paths[0] is not None
    return Tables(*paths)  # type: ignore[arg-type]
