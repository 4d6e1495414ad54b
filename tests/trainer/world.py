"""A shop whose right answers are known: each of 60 users buys all ten items of one genre, and two of another.

User u loves genre u mod 4, and buys its items in an order of their own: the last one, which is held out, is the only
item of that genre that the user does not know.
"""

from __future__ import annotations

import contextlib
import io
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.items import COLUMN_TYPES, ItemTable
from retrieval.store.folder_store import FolderStore
from trainer.cli.commands import app
from trainer.data.dataset import Dataset, Events
from trainer.progress import Silent
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

RECIPE = """
name = "shop"

[interactions]
path = "purchases.csv"
user = "buyer"
item = "product"
time = "bought_at"

[items]
path = "products.csv"
id = "product"

[items.attributes]
title = { column = "title" }
year = { column = "year", type = "int" }
genres = { column = "genres", type = "string_list" }

[users]
path = "buyers.csv"
id = "buyer"

[users.attributes]
age = { column = "age", type = "float" }
gender = { column = "gender" }

[query_tower]
hidden_units = [16]
features = [
    { name = "history", kind = "history", max_values = 10, dropout = 0.2 },
    { name = "age", kind = "numeric", dropout = 0.2 },
    { name = "gender", kind = "categorical", embedding_dim = 2 },
]

[item_tower]
hidden_units = [16]
features = [
    { name = "item_id", kind = "categorical", dropout = 0.05 },
    { name = "year", kind = "numeric" },
    { name = "genres", kind = "multi_categorical", max_values = 2, embedding_dim = 4 },
]

[training]
dimension = 8
epochs = 2
batch_size = 32
learning_rate = 0.03

[index]
trees = [3, 6]
"""
SERVED_WORDS = """
[search]
attributes = ["title"]
serve = true
"""
"""Of the recipe that is written and trained."""
GENRES = ("comedy", "drama", "horror", "western")
USER_COUNT, ITEM_COUNT = 60, 40
KERAS_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
"""Keras 3 saves the variables of TensorFlow in a way that NumPy 2 will no longer take."""


def recipe(**changes: Mapping[str, Any]) -> Recipe:
    """Returns the shop's recipe; `changes` are merged into its tables."""
    raw = tomllib.loads(RECIPE)
    for name, change in changes.items():
        raw[name] = {**raw.get(name, {}), **change}
    return loading.parse(raw, "shop")


def write_shop(folder: Path) -> Path:
    """Writes the three tables and the recipe, and returns the path of the recipe."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True)
    purchases = ["buyer,product,bought_at"]
    for user in range(USER_COUNT):
        own = np.arange(user % 4, ITEM_COUNT, 4)
        other = np.arange((user + 1) % 4, ITEM_COUNT, 4)
        bought = [*generator.permutation(other)[:2], *generator.permutation(own)]
        # Two events share each second: the row of the file decides.
        purchases += [f"u{user:02},p{item:02},{1_700_000_000 + at // 2}" for at, item in enumerate(bought)]
    products = ["product,title,year,genres"]
    for item in range(ITEM_COUNT):
        year = "" if item % 9 == 0 else 1980 + item
        products.append(f'p{item:02},"Title {item}, the film",{year},{GENRES[item % 4]}{"|new" if item > 30 else ""}')
    buyers = ["buyer,age,gender"]
    for user in range(USER_COUNT):
        buyers.append(f"u{user:02},{'' if user % 7 == 0 else 20 + user},{'fm'[user % 2]}")
    for name, lines in (("purchases", purchases), ("products", products), ("buyers", buyers)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    path = folder / "shop.toml"
    path.write_text(RECIPE + SERVED_WORDS)
    return path


def command(*arguments: Any) -> str:
    """Runs ``python -m trainer`` in this process and returns its stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        app([str(argument) for argument in arguments], result_action="return_value", exit_on_error=False)
    return stdout.getvalue()


@dataclass(frozen=True)
class Shop:
    """The shop, trained with two seeds.

    Attributes:
        recipe: Path of the recipe.
        store: Store with one bundle for each seed, the first one live. It is shared: copy it before you change it.
        runs: Folders of the two runs.
        results: Output of ``train --json`` for the two runs.
    """

    recipe: Path
    store: FolderStore
    runs: tuple[Path, Path]
    results: tuple[dict[str, Any], dict[str, Any]]

    @property
    def versions(self) -> tuple[str, str]:
        """Versions of the two bundles."""
        return self.results[0]["bundle_version"], self.results[1]["bundle_version"]


@cache
def trained_shop(folder: Path) -> Shop:
    """Returns the shop in `folder`, trained once a test session."""
    path, store, runs = write_shop(folder / "data"), folder / "store", (folder / "run-1", folder / "run-2")
    train = ("train", path, "--store", store, "--json")
    first = json.loads(command(*train, "--run", runs[0], "--promote"))
    second = json.loads(command(*train, "--run", runs[1], "--seed", 2))
    return Shop(path, FolderStore(store), runs, (first, second))


def dataset(
    purchases: Sequence[tuple[str, str, float]],
    users: Mapping[str, Mapping[str, Any]] | None = None,
    items: Mapping[str, Mapping[str, Any]] | None = None,
) -> Dataset:
    """Returns what `trainer.data.dataset.load_dataset` makes of a shop.

    Args:
        purchases: user, item, time; sorted here by user and time.
        users: age and gender by id; default: nothing known of those that bought.
        items: title, year and genres by id; default: nothing known of those that were bought.
    """
    users = users if users is not None else {user: {} for user, _, _ in purchases}
    items = items if items is not None else {item: {} for _, item, _ in purchases}
    user_ids, item_ids = tuple(sorted(users)), tuple(sorted(items))
    ordered = sorted(purchases, key=lambda purchase: (purchase[0], purchase[2]))
    events = Events(
        np.array([user_ids.index(user) for user, _, _ in ordered], dtype=np.int32),
        np.array([item_ids.index(item) for _, item, _ in ordered], dtype=np.int32),
        np.array([time for _, _, time in ordered], dtype=np.float64),
        np.ones(len(ordered), dtype=np.float32),
    )
    types = {"title": "string", "year": "int", "genres": "string_list"}
    attributes = {
        name: COLUMN_TYPES[kind].of([items[item].get(name) for item in item_ids]) for name, kind in types.items()
    }
    profiles = {name: [users[user].get(name) for user in user_ids] for name in ("age", "gender")}
    return Dataset(events, user_ids, ItemTable.of(item_ids, attributes), profiles, ())


class Recorded(Silent):
    """Progress that stores the notes, and the steps of long work."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextlib.contextmanager
    def working(self, title: str) -> Iterator[Callable[[str], None]]:
        yield self.steps.append
