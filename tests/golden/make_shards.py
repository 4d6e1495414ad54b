"""Makes the golden bundle in shards. Run once; the bundle is kept, and this file says what it is of.

    python -m tests.golden.make_shards

It needs the trainer, services, client and tests of its revision, and need not run with any later one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import trainer.publishing.report.page
from retrieval.bundle.catalogue.parts import read_vectors
from retrieval.store.folder_store import FolderStore
from tests.harness import ann_service, query_tower_service
from tests.trainer.world import command
from two_tower_client import Retriever

HERE = Path(__file__).parent
NAME, TOP = "shards", 5
GENRES = ("comedy", "drama", "horror", "western")
COLOURS, KINDS = ("black", "white", "red"), ("mouse", "keyboard", "cable", "bag")
USERS, ITEMS = 36, 24
AT = 1_700_000_000.0

RECIPE = """
name = "shards"

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
genres = { column = "genres", type = "string_list" }
price = { column = "price", type = "float" }
year = { column = "year", type = "int" }

[query_tower]
hidden_units = [8]
features = [{ name = "history", kind = "history", max_values = 6 }]

[item_tower]
hidden_units = [8]
features = [{ name = "item_id", kind = "categorical" }, { name = "year", kind = "numeric" }]

[training]
dimension = 6
epochs = 3
batch_size = 32
learning_rate = 0.03

[index]
trees = [3]
shards = 5

[search]
attributes = ["title"]
serve = true

[gates]
min_gain_over_popularity = -1.0
"""

QUERIES: list[dict[str, Any]] = [
    {"history": ["p00", "p04", "p08"]},
    {"history": ["p01", "gone"]},
    {"history": [f"p{row:02}" for row in range(10)]},
    {},
]
SEARCHES = ["red cable", "the black mouse, 0 3", "nothing of these"]
NEW_ITEM = "product,title,genres,price,year\nz1,Brand new,horror|comedy,12.5,1999\n"


def write_shop(folder: Path) -> None:
    """Writes who bought what: user u likes genre u mod 4, and buys its items in an order of their own."""
    generator = np.random.default_rng(7)
    purchases = ["buyer,product,bought_at"]
    for user in range(USERS):
        own, other = np.arange(user % 4, ITEMS, 4), np.arange((user + 1) % 4, ITEMS, 4)
        for at, item in enumerate([*generator.permutation(other)[: user % 3], *generator.permutation(own)]):
            purchases.append(f"u{user:02},p{item:02},{AT - 1e6 + 100_000 * at + 977 * user:.0f}")
    products = ["product,title,genres,price,year"]
    for item in range(ITEMS):
        title = "" if item == 11 else f'"The {COLOURS[item % 3]} {KINDS[item // 3 % 4]} {item}, naïve"'
        genres = "" if item == 13 else GENRES[item % 4] + ("|new" if item > 18 else "")
        price, year = "" if item % 7 == 0 else item / 4, "" if item % 9 == 0 else 1980 + item
        products.append(f"p{item:02},{title},{genres},{price},{year}")
    for name, lines in (("purchases", purchases), ("products", products)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def make(work: Path) -> dict[str, Any]:
    """Makes the bundle, and returns what it answers."""
    os.chdir(work)  # so that no path in the bundle is one of this machine
    write_shop(work)
    Path("recipe.toml").write_text(RECIPE)
    command("train", "recipe.toml", "--store", "store", "--run", "run", "--promote")
    store = FolderStore(work / "store")
    version = store.live_version()
    manifest, folder = store.manifest(version), store.path(version)
    golden = HERE / f"v{manifest.format_version}-{NAME}"
    shutil.rmtree(golden, ignore_errors=True)
    shutil.copytree(folder, golden)
    answers = {"folder": golden.name, "bundle_version": version, **ask(store)}
    (work / "new.csv").write_text(NEW_ITEM)
    added = json.loads(command("add-items", "--store", "store", "--items", "new.csv", "--json"))["bundle_version"]
    vector = read_vectors(store.path(added), store.manifest(added))[-1]
    return {**answers, "new_item": {"table": NEW_ITEM, "vector": numbers(vector)}}


def ask(store: FolderStore) -> dict[str, Any]:
    """Returns what both services answer; scores are worked out here, and have to be theirs."""
    version = store.live_version()
    manifest, folder = store.manifest(version), store.path(version)
    vectors = read_vectors(folder, manifest)
    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        query_tower.wait_for_bundle(version)
        ann.wait_for_bundle(version)
        with Retriever(f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}", timeout_s=30.0) as retriever:
            embeddings = np.array(retriever.query_tower.embed(QUERIES).vectors)
            first = retriever.retrieve(QUERIES[0], k=ITEMS, return_attributes=list(manifest.attributes))
            found: dict[str, Any] = {"queries": [], "attributes": {}, "searches": []}
            for query, embedding in zip(QUERIES, embeddings, strict=True):
                scores = vectors @ embedding  # [item_count]
                answer = retriever.retrieve(query, k=TOP)
                np.testing.assert_allclose(answer.scores, np.sort(scores)[::-1][:TOP], atol=1e-6)
                # Distinct, so that the order of the ids is no accident.
                assert np.diff(np.sort(scores)[-TOP - 1 :]).min() > 2e-6, np.sort(scores)[-TOP - 1 :]
                found["queries"].append(
                    {
                        "features": query,
                        "embedding": numbers(embedding),
                        "top_items": list(answer.item_ids),
                        "top_scores": numbers(np.array(answer.scores)),
                    }
                )
            assert len(first) == ITEMS
            for hit in sorted(first, key=lambda hit: hit.item_id):
                found["attributes"][hit.item_id] = dict(hit.attributes)
            for text in SEARCHES:
                words = retriever.retrieve({}, k=TOP, text=text, ranking="lexical")
                fused = retriever.retrieve(QUERIES[0], k=TOP, text=text, ranking="fused")
                found["searches"].append(
                    {
                        "text": text,
                        "lexical_items": list(words.item_ids),
                        "lexical_scores": numbers(np.array(words.scores)),
                        "fused_items": list(fused.item_ids),
                        "fused_scores": numbers(np.array(fused.scores)),
                    }
                )
            popular = retriever.popular(k=TOP)
            found["popular"] = {"items": list(popular.item_ids), "scores": numbers(np.array(popular.scores))}
    return found


def numbers(values: np.ndarray) -> Any:
    """Returns values as JSON has them, as exact as float32."""
    return np.round(values.astype(float), 8).tolist()


def main() -> None:
    """Makes it, and adds its answers to those of the other bundles."""
    # The figures' library is 4 MB of a report; the page is kept without it, and shows tables alone.
    trainer.publishing.report.page.get_plotlyjs = lambda: "/* plotly.js was left out of golden bundles */"
    with tempfile.TemporaryDirectory() as temporary:
        found = make(Path(temporary))
        os.chdir(HERE)
    path = HERE / "answers.json"
    answers = {**json.loads(path.read_text(encoding="utf-8")), NAME: found}
    path.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
