"""A store whose live bundle has a small trained query tower, and a synthetic catalogue of any size with attributes.

No download: the towers are trained for one epoch on a synthetic table of events, which takes about half a minute.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.items import Column, FloatColumn, IntColumn, StringColumn, StringListColumn
from retrieval.bundle.layout import VECTORS
from retrieval.bundle.manifest import IndexSpec, Manifest
from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from testbed.synthetic_bundles import write_bundle_of
from testbed.synthetic_vectors import spread_items
from trainer.publishing import index_selection

LEXICAL_ATTRIBUTE = "title"
"""Attribute that the lexical index reads."""

_USERS, _ITEMS, _EVENTS_EACH = 500, 2000, 20
_WORDS, _WORDS_A_TITLE = 5000, 5
_TREES, _BUDGET = 25, 4000
_RECIPE = """
name = "synthetic"
[interactions]
path = "events.csv"
user = "user"
item = "item"
time = "time"
[items]
path = "items.csv"
id = "item"
[items.attributes]
year = { column = "year", type = "int" }
[users]
path = "users.csv"
id = "user"
[users.attributes]
age = { column = "age", type = "float" }
segment = { column = "segment" }
[query_tower]
hidden_units = []
features = [
    { name = "history", kind = "history", encoder = "positions", max_values = 100 },
    { name = "age", kind = "numeric" },
    { name = "segment", kind = "categorical", embedding_dim = 4 },
]
[item_tower]
hidden_units = []
features = [{ name = "item_id", kind = "categorical" }, { name = "year", kind = "numeric" }]
[split]
kind = "leave_last_one_out"
[training]
dimension = 64
epochs = 1
batch_size = 1024
loss = "full_softmax"
"""


def make_store(root: Path, item_count: int, seed: int = 1) -> Manifest:
    """Writes a store with a live bundle of a synthetic catalogue, and returns the manifest of the bundle.

    The items ``item-0``, ``item-1`` and so on have a title, a brand, a year, a price and tags, and the bundle has a
    lexical index of the titles. Their vectors lie around those of the trained items.

    Args:
        root: folder of the store, which must not have a live bundle.
        item_count: number of items, at least 1,000.
        seed: seed of the tables, the training, the vectors and the index.

    Raises:
        RuntimeError: the training failed; the message ends with what it printed last.
    """
    store = FolderStore(root)
    train(root.with_name(f"{root.name}-training"), store, seed)
    base = store.live_version()
    vectors = spread_items(np.load(store.path(base) / VECTORS), item_count, seed)
    spec = IndexSpec("annoy", "angular", {"trees": _TREES, "seed": seed}, _BUDGET, 0.0)
    manifest = write_bundle_of(
        store,
        base,
        vectors,
        lambda path, queries: index_selection.rebuild(vectors, queries, path, old=spec, min_recall=0.0),
        make_attributes(item_count, seed),
        (LEXICAL_ATTRIBUTE,),
    )
    store.promote(manifest.bundle_version)
    return manifest


def make_attributes(item_count: int, seed: int = 1) -> dict[str, Column]:
    """Returns the attributes of a synthetic catalogue: columns of [item_count] values, by attribute name.

    Words, brands and tags are skewed as in real catalogues: the most frequent word is in about a tenth of the titles.

    Args:
        item_count: number of items.
        seed: seed of the draw.
    """
    generator = np.random.default_rng(seed)

    def draw(names: int, *shape: int) -> np.ndarray:
        return (names * generator.random(shape) ** 3).astype(np.int64)

    titles = draw(_WORDS, item_count, _WORDS_A_TITLE)  # [item_count, words]
    tags = draw(200, item_count, 3)  # [item_count, tags]
    return {
        LEXICAL_ATTRIBUTE: StringColumn.of([" ".join(f"word{word}" for word in title) for title in titles.tolist()]),
        "brand": StringColumn.of([f"brand-{brand}" for brand in draw(500, item_count).tolist()]),
        "year": IntColumn.of(generator.integers(1950, 2027, item_count).tolist()),
        "price": FloatColumn.of(np.round(generator.lognormal(3.0, 1.0, item_count), 2).tolist()),
        "tags": StringListColumn.of([[f"tag-{tag}" for tag in dict.fromkeys(row)] for row in tags.tolist()]),
    }


def train(folder: Path, store: FolderStore, seed: int) -> None:
    """Trains the towers on synthetic tables in a separate process, and promotes the bundle.

    Args:
        folder: folder to create for the tables, the recipe and the run.
        store: store to publish the bundle to.
        seed: seed of the tables and of the training.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    items = (_ITEMS * generator.random((_USERS, _EVENTS_EACH)) ** 2).astype(np.int64)
    events = [
        (f"user-{user}", f"item-{item}", 1_700_000_000 + position)
        for user, row in enumerate(items.tolist())
        for position, item in enumerate(row)
    ]
    _write_table(folder / "events.csv", ("user", "item", "time"), events)
    years = generator.integers(1950, 2027, _ITEMS).tolist()
    _write_table(folder / "items.csv", ("item", "year"), [(f"item-{n}", year) for n, year in enumerate(years)])
    ages = generator.integers(18, 80, _USERS).tolist()
    users = [(f"user-{n}", age, f"segment-{n % 7}") for n, age in enumerate(ages)]
    _write_table(folder / "users.csv", ("user", "age", "segment"), users)
    (folder / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        str(folder / "recipe.toml"),
        "--store",
        str(store.root),
        "--no-baselines",
    ]
    command += ["--promote", "--force", "--no-refit", "--seed", str(seed), "--run", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training the synthetic towers failed with {done.returncode}: {done.stderr[-2000:]}")


def _write_table(path: Path, head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
