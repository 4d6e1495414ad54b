"""Makes the golden bundles. Run at revision f87f8ee, once; the bundles are kept, and this file says what they are of.

    python -m tests.golden.make_golden

It needs the trainer, services, client and tests of that revision, and need not run with any later one. Never run it to
renew a bundle: a golden bundle shows that what was published then still opens. A change of the format gets a bundle of
its own beside these.
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
from retrieval.store.store import BundleStore
from tests.harness import ann_service, query_tower_service
from tests.trainer.text.checkpoints import write_checkpoint
from tests.trainer.world import command
from two_tower_client import Retriever

HERE = Path(__file__).parent
TOP = 5
GENRES = ("comedy", "drama", "horror", "western")
COLOURS = ("black", "white", "red")
KINDS = ("mouse", "keyboard", "cable", "bag")
USERS, ITEMS = 36, 24

SHOP = """
[interactions]
path = "purchases.csv"
user = "buyer"
item = "product"
time = "bought_at"
{event_attributes}

[items]
path = "products.csv"
id = "product"

[items.attributes]
title = {{ column = "title" }}
genres = {{ column = "genres", type = "string_list" }}
price = {{ column = "price", type = "float" }}
year = {{ column = "year", type = "int" }}

[users]
path = "buyers.csv"
id = "buyer"

[users.attributes]
age = {{ column = "age", type = "float" }}
gender = {{ column = "gender" }}
region = {{ column = "region", type = "int" }}
likes = {{ column = "likes", type = "string_list" }}

[item_tower]
hidden_units = [8]
features = [
    {{ name = "item_id", kind = "categorical" }},
    {{ name = "year", kind = "numeric" }},
    {{ name = "price", kind = "numeric" }},
    {{ name = "genres", kind = "multi_categorical", max_values = 2, embedding_dim = 4 }},
]

[query_tower]
{query_tower}

[training]
dimension = 6
epochs = 3
batch_size = 32
learning_rate = 0.03
{training}

[index]
{index}

[gates]
min_gain_over_popularity = -1.0
"""

PLAIN_FEATURES = """
hidden_units = [8]
features = [
    { name = "history", kind = "history", max_values = 6 },
    { name = "age", kind = "numeric" },
    { name = "gender", kind = "categorical", embedding_dim = 2 },
    { name = "region", kind = "categorical", embedding_dim = 2, hash_buckets = 8 },
    { name = "likes", kind = "multi_categorical", max_values = 2, embedding_dim = 2 },
    { name = "weekday", kind = "categorical", embedding_dim = 2 },
]
"""
EVENT_FEATURES = """
hidden_units = []
features = [
    { name = "history", kind = "history", max_values = 6, encoder = "transformer", values = [
        { name = "stars", kind = "numeric" },
        { name = "dwell", kind = "numeric", log = true },
        { name = "action", kind = "categorical", embedding_dim = 3 },
        { name = "channel", kind = "categorical", embedding_dim = 3, hash_buckets = 8 },
        { kind = "gap" },
    ] },
]
"""
INTERESTS = """
interests = 2
hidden_units = []
features = [{ name = "history", kind = "history", max_values = 6 }, { name = "age", kind = "numeric" }]
"""
AGE_DECAY = """
hidden_units = []
features = [
    { name = "history", kind = "history", max_values = 6, encoder = "age_decay", half_life_days = 2.0 },
    { name = "age", kind = "numeric" },
]
"""
EVENT_ATTRIBUTES = """
[interactions.attributes]
stars = { column = "stars", type = "int" }
dwell = { column = "dwell", type = "float" }
action = { column = "action" }
channel = { column = "channel", type = "int" }
"""
TEXT = """
name = "text"

[interactions]
path = "searches.csv"
user = "search"
item = "product"
attributes = { query = { column = "query" } }

[items]
path = "products.csv"
id = "product"
attributes = { title = { column = "title" } }

[query_tower]
hidden_units = []
features = [{ name = "query", kind = "text", checkpoint = "checkpoint", max_tokens = 16 }]

[item_tower]
hidden_units = []
features = [{ name = "title", kind = "text", checkpoint = "checkpoint", max_tokens = 16 }]

[split]
kind = "column"
column = "part"

[training]
dimension = 6
epochs = 3
batch_size = 32
learning_rate = 0.01

[index]
kind = "faiss_hnsw"
links = [4]

[search]
attributes = ["title"]
serve = true

[gates]
min_gain_over_popularity = -1.0
"""

AT = 1_700_000_000.0
EVENTS_OF_THREE = {
    "history": ["p03", "gone", "p07"],
    "history.stars": [5.0, None, 1.0],
    "history.dwell": [0.0, 30.0, 400.0],
    "history.action": ["buy", "view", None],
    "history.channel": [1, 2, 999],
    "history.time": [AT - 9e5, AT - 8e5, AT - 60.0],
}
QUERIES: dict[str, list[dict[str, Any]]] = {
    "plain": [
        {"history": ["p00", "p04", "p08"], "age": 31.0, "gender": "f", "region": 2, "likes": ["comedy"], "weekday": 3},
        {"history": ["p01", "gone"], "gender": "unheard-of", "likes": ["drama", "horror", "western"]},
        {"history": [f"p{row:02}" for row in range(10)], "age": 60.0, "region": 12345, "weekday": 6},
        {},
    ],
    "text": [{"query": "black mouse"}, {"query": "The new red CABLE, 3"}, {"query": "日本語 ☂"}, {}],
    "events": [
        EVENTS_OF_THREE,
        {"history": ["p01", "p05", "p09", "p13", "p17", "p21", "p02", "p06"]},
        {"history": ["p11"], "history.stars": [3.0], "history.action": ["unheard-of"]},
        {},
    ],
    "interests": [
        {"history": ["p00", "p04", "p08", "p01"], "age": 31.0},
        {"history": ["p03", "gone"], "age": 55.0},
        {"history": ["p02"]},
        {},
    ],
    "age_decay_popularity": [
        {"history": ["p00", "p05"], "history.time": [AT - 9e5, AT - 60.0], "request_time": AT, "age": 31.0},
        {"history": ["p00", "p05"], "history.time": [None, AT - 60.0], "request_time": AT},
        {"history": ["p00", "p05", "gone"], "age": 55.0, "request_time": AT},
        {"request_time": AT},
    ],
}
SEARCHES = ["red cable", "the black mouse, 0 3", "nothing of these"]

SHOP_ITEM = "product,title,genres,price,year\nz1,Brand new,horror|comedy,12.5,1999\n"
NEW_ITEMS = {
    "plain": SHOP_ITEM,
    "text": "product,title\nz1,The new black keyboard made of brass\n",
    "events": SHOP_ITEM,
    "interests": SHOP_ITEM,
    "age_decay_popularity": SHOP_ITEM,
}
"""A row of the items table that the bundle does not hold: what its item tower makes of it is recorded."""


def recipe(name: str) -> str:
    """Returns the text of a recipe."""
    if name == "text":
        return TEXT
    parts = {
        "plain": {"query_tower": PLAIN_FEATURES, "index": "trees = [3]"},
        "events": {
            "query_tower": EVENT_FEATURES,
            "event_attributes": EVENT_ATTRIBUTES,
            "training": 'loss = "full_softmax"\nprior_weight = 0.2\nprior_days = 2.0',
            "index": 'kind = "faiss_ivf"\nlists = [4]',
        },
        "interests": {"query_tower": INTERESTS, "index": "trees = [3]"},
        "age_decay_popularity": {
            "query_tower": AGE_DECAY,
            "training": 'popularity = "recent"\npopularity_half_life_days = 3.0',
            "index": "trees = [3]",
        },
    }[name]
    return f'name = "{name}"\n' + SHOP.format(**{"event_attributes": "", "training": "", **parts})


def write_shop(folder: Path) -> None:
    """Writes who bought what: user u likes genre u mod 4, and buys its items in an order of their own."""
    generator = np.random.default_rng(7)
    purchases = ["buyer,product,bought_at,stars,dwell,action,channel"]
    for user in range(USERS):
        own, other = np.arange(user % 4, ITEMS, 4), np.arange((user + 1) % 4, ITEMS, 4)
        for at, item in enumerate([*generator.permutation(other)[:2], *generator.permutation(own)]):
            seconds = AT - 1e6 + 100_000 * at + 977 * user
            stars = "" if at % 5 == 0 else at % 4 + 1
            action, channel = ("view", "buy", "")[at % 3], at % 3
            purchases.append(f"u{user:02},p{item:02},{seconds:.0f},{stars},{at * at * 2.5},{action},{channel}")
    products = ["product,title,genres,price,year"]
    for item in range(ITEMS):
        title = "" if item == 11 else f'"Title {item}, naïve"'
        genres = "" if item == 13 else GENRES[item % 4] + ("|new" if item > 18 else "")
        price, year = "" if item % 7 == 0 else item / 4, "" if item % 9 == 0 else 1980 + item
        products.append(f"p{item:02},{title},{genres},{price},{year}")
    buyers = ["buyer,age,gender,region,likes"]
    for user in range(USERS):
        age = "" if user % 7 == 0 else 20 + user
        buyers.append(f"u{user:02},{age},{'fm'[user % 2]},{user % 5},{GENRES[user % 4]}")
    for name, lines in (("purchases", purchases), ("products", products), ("buyers", buyers)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def write_searches(folder: Path) -> None:
    """Writes who searched what and took which product, and the checkpoint that reads the texts."""
    write_checkpoint(folder / "checkpoint")
    products = [(f"p{at:02}", COLOURS[at % 3], KINDS[at // 3 % 4]) for at in range(ITEMS)]
    rows = ["search,product,query,part"]
    for at, (product, colour, kind) in enumerate(products):
        for number, query in enumerate((kind, f"{colour} {kind}", f"{kind} {colour}", "")):
            part = ("train", "train", "valid", "test")[(at + number) % 4]
            rows.append(f"s{at:02}{number},{products[at - 1][0]},{query},train")
            rows.append(f"s{at:02}{number},{product},{query},{part}")
    titles = [f'{p},"The new {colour} {kind}, {p[1]} {p[2]}"' for p, colour, kind in products]
    (folder / "searches.csv").write_text("\n".join(rows) + "\n")
    (folder / "products.csv").write_text("\n".join(["product,title", *titles]) + "\n")


def make(name: str, work: Path) -> dict[str, Any]:
    """Makes a bundle, and returns what it answers."""
    work.mkdir()
    os.chdir(work)  # so that no path in the bundle is one of this machine
    (write_searches if name == "text" else write_shop)(work)
    Path("recipe.toml").write_text(recipe(name))
    command("train", "recipe.toml", "--store", "store", "--run", "run", "--promote")
    store = BundleStore("store")
    version = store.live_version()
    manifest, folder = store.manifest(version), store.path(version)
    golden = HERE / f"v{manifest.format_version}-{name}"
    shutil.rmtree(golden, ignore_errors=True)
    shutil.copytree(folder, golden)
    answers = {"folder": golden.name, "bundle_version": version, **ask(name, store)}
    (work / "new.csv").write_text(NEW_ITEMS[name])
    added = json.loads(command("add-items", "--store", "store", "--items", "new.csv", "--json"))["bundle_version"]
    vector = np.load(store.path(added) / "vectors.npy")[-1]
    return {**answers, "new_item": {"table": NEW_ITEMS[name], "vector": numbers(vector)}}


def ask(name: str, store: BundleStore) -> dict[str, Any]:
    """Returns what both services answer; scores are worked out here, and have to be theirs."""
    version, queries = store.live_version(), QUERIES[name]
    folder, attributes = store.path(version), store.manifest(version).attributes
    vectors = np.load(folder / "vectors.npy")
    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        query_tower.wait_for_bundle(version)
        ann.wait_for_bundle(version)
        with Retriever(f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}", timeout_s=30.0) as retriever:
            embedded = retriever.query_tower.embed(queries)
            embeddings = np.array(embedded.vectors or embedded.interests)
            every = retriever.similar_to("p00", k=ITEMS, return_attributes=list(attributes))
            first = retriever.retrieve(queries[0], k=ITEMS, return_attributes=list(attributes))
            found: dict[str, Any] = {"queries": [], "attributes": {}}
            for query, embedding in zip(queries, embeddings, strict=True):
                scores = np.max(np.atleast_2d(embedding) @ vectors.T, axis=0)  # [item_count]
                served = retriever.retrieve(query, k=TOP)
                np.testing.assert_allclose(served.scores, np.sort(scores)[::-1][:TOP], atol=1e-6)
                # Distinct, so that the order of the ids is no accident.
                assert np.diff(np.sort(scores)[-TOP - 1 :]).min() > 2e-6, np.sort(scores)[-TOP - 1 :]
                found["queries"].append(
                    {
                        "features": query,
                        "embedding": numbers(embedding),
                        "top_items": list(served.item_ids),
                        "top_scores": numbers(np.array(served.scores)),
                    }
                )
            assert len(first) == ITEMS == len(every) + 1
            for hit in sorted(first, key=lambda hit: hit.item_id):
                found["attributes"][hit.item_id] = dict(hit.attributes)
            if name == "text":
                found["searches"] = []
                for text in SEARCHES:
                    words = retriever.retrieve({}, k=TOP, text=text, ranking="lexical")
                    fused = retriever.retrieve({"query": text}, k=TOP, text=text, ranking="fused")
                    found["searches"].append(
                        {
                            "text": text,
                            "lexical_items": list(words.item_ids),
                            "lexical_scores": numbers(np.array(words.scores)),
                            "fused_items": list(fused.item_ids),
                            "fused_scores": numbers(np.array(fused.scores)),
                        }
                    )
    return found


def numbers(values: np.ndarray) -> Any:
    """Returns values as JSON has them, as exact as float32."""
    return np.round(values.astype(float), 8).tolist()


def main() -> None:
    """Makes all."""
    # The figures' library is 4 MB of a report, the same in each; the pages are kept without it, and show tables alone.
    trainer.publishing.report.page.get_plotlyjs = lambda: "/* plotly.js was left out of golden bundles */"
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = f"{temporary}/cache"
        answers = {name: make(name, Path(temporary) / name) for name in QUERIES}
        os.chdir(HERE)
    text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
    (HERE / "answers.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
