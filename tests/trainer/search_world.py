"""A shop with a search box: 24 products of 4 kinds and 3 colours, and the products taken after each search."""

from __future__ import annotations

from pathlib import Path

KINDS = ("mouse", "keyboard", "cable", "bag")
COLOURS = ("black", "white", "red")

RECIPE = """
name = "search"

[interactions]
path = "searches.csv"
user = "search"
item = "product"
attributes = {{ query = {{ column = "query" }} }}
split = {{ }}

[items]
path = "products.csv"
id = "product"
attributes = {{ title = {{ column = "title" }} }}

[query_tower]
hidden_units = []
features = [{{ name = "query", kind = "text", checkpoint = "{checkpoint}", max_tokens = 16, {keys} }}]

[item_tower]
hidden_units = []
features = [{{ name = "title", kind = "text", checkpoint = "{checkpoint}", max_tokens = 16, {keys} }}]

[split]
kind = "column"
column = "part"

[training]
dimension = 16
epochs = 2
batch_size = 32
learning_rate = 0.01

[index]
trees = [3, 6]

[gates]
min_gain_over_popularity = -1.0
"""


def write_search_shop(folder: Path, checkpoint: Path, keys: str) -> Path:
    """Writes tables and recipe, and returns the path of the recipe.

    Args:
        folder: folder to create.
        checkpoint: text encoder checkpoint of both towers.
        keys: further keys of both text features, as TOML.
    """
    folder.mkdir(parents=True)
    products = [(f"p{at:02}", COLOURS[at % 3], KINDS[at // 3 % 4]) for at in range(24)]
    rows = ["search,product,query,part"]
    for at, (product, colour, kind) in enumerate(products):
        for number, query in enumerate((kind, f"{colour} {kind}", f"{kind} {colour}", "")):
            # A search is a user of its own; it took one product before, so that it is known.
            part = ("train", "train", "valid", "test")[(at + number) % 4]
            rows += [
                f"s{at:02}{number},{products[at - 1][0]},{query},train",
                f"s{at:02}{number},{product},{query},{part}",
            ]
    (folder / "searches.csv").write_text("\n".join(rows) + "\n")
    titles = [
        f'{product},"The new {colour} {kind}, {at % 7} ({product[1:]})"'
        for at, (product, colour, kind) in enumerate(products)
    ]
    (folder / "products.csv").write_text("\n".join(["product,title", *titles]) + "\n")
    path = folder / "search.toml"
    path.write_text(RECIPE.format(checkpoint=checkpoint, keys=keys).replace("split = { }\n", ""))
    return path
