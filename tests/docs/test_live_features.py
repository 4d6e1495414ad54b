"""docs/live_features.md: its recipe is that of the README's shop, with a served log for customers and purchases."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import polars as pl
import pytest

from trainer.data.dataset import load_dataset
from trainer.recipe import loading

ROOT = Path(__file__).parents[2]


def recipe_of(page: Path, to: Path) -> Path:
    block = re.search(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    to.write_text(block[1])
    return to


@pytest.fixture
def served(tmp_path: Path) -> Path:
    return recipe_of(ROOT / "docs" / "live_features.md", tmp_path / "served.toml")


def test_the_recipe_of_a_served_log_is_that_of_the_shop(served: Path, tmp_path: Path) -> None:
    recipe, shop = loading.load(str(served)), loading.load(str(recipe_of(ROOT / "README.md", tmp_path / "shop.toml")))
    same = dataclasses.replace(recipe, name=shop.name, interactions=shop.interactions, users=shop.users)
    assert same == shop
    assert shop.users is not None
    assert recipe.users is None
    assert recipe.interactions.attributes.keys() == shop.users.attributes.keys()


def test_the_recipe_of_a_served_log_reads_one(served: Path, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(
        "product,name,category,price\n" + "".join(f"p{n},thing {n},kitchen|gifts,{n}.5\n" for n in range(9))
    )
    logged = [
        {"event_id": f"{user}-{n}", "user_id": user, "item_id": f"p{n}", "time": 100.0 + n, "type": "buy"}
        | {"weight": 1.0, "values": "{}"}
        for user in ("c1", "c2", "c3")
        for n in range(9)
    ]
    queries = [
        {"key": index, "time": 99.0, "user_id": user, "features": f'{{"country": ["{country}"], "age": [34.0]}}'}
        for index, (user, country) in enumerate((("c1", "DE"), ("c2", "FR"), ("c3", "FR")))
    ]
    for table, rows in (("events", logged), ("queries", queries)):
        folder = tmp_path / "served" / table
        folder.mkdir(parents=True)
        pl.DataFrame(rows).write_parquet(folder / "part.parquet")

    dataset = load_dataset(loading.load(str(served)), tmp_path)

    assert len(dataset.items.ids) == 9
    told = {
        dataset.user_ids[u]: c for u, c in zip(dataset.events.users, dataset.events.attributes["country"], strict=True)
    }
    assert told == {"c1": "DE", "c2": "FR", "c3": "FR"}
    assert set(dataset.events.attributes["age"]) == {34.0}
