"""The Icecat catalogue: categories of products, tables, and search queries with the products that answer them."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import polars as pl
import pytest

from trainer.data.icecat import catalogue, categories, pairs
from trainer.data.icecat.products import Product
from trainer.errors import DataError

COLOURS = ("Black", "White", "Red", "Blue", "Grey")


def product(number: int, name: str, behind: str, **properties: str | float | bool) -> Product:
    return Product(str(number), "Acme", name, f"Acme {name} {behind}".strip(), "", properties)


def products() -> list[Product]:
    """Returns 13 products: 10 with the category in the title, 2 with the category in the name, 1 with neither.

    Five of the ten are cables, five are mice; one of the two is a cable, one is a mouse.
    """
    cables = [product(at, f"C{at}", f"network cable {at} m {COLOURS[at]}", cable_length=at) for at in range(5)]
    mice = [product(10 + at, f"M{at}", f"mouse USB Optical {COLOURS[at]}", dpi=800) for at in range(5)]
    named = [product(20, "Patch Network Cable 2", "2 m"), product(21, "Silent Mouse", "")]
    return [*cables, *mice, *named, product(22, "Z1", "Optical Red 1000", dpi=1000)]


def test_categories_come_from_titles_names_and_neighbours() -> None:
    named = categories.infer(products())
    assert {named[str(at)] for at in range(5)} == {"network cable"}
    assert named["20"] == "network cable"
    # Where "usb" follows every mouse, it is taken for part of the category.
    assert {named[str(10 + at)] for at in range(5)} == {"mouse usb"}
    # Optical and with a resolution, as the mice are.
    assert named["22"] == "mouse usb"


def write_catalogue(folder: Path) -> Path:
    folder.mkdir()
    entries = [
        {
            "id": p.id,
            "name": p.name,
            "title": p.title,
            "supplier": p.brand,
            "short_description": f"The {p.title}<br />&amp; more words that describe it",
            **{f"attr_n_{name}": value for name, value in p.properties.items()},
            "attr_t_product_colour": COLOURS[int(p.id) % 5],
            "attr_b_rohs": True,
            "attr_b_hidden": False,
        }
        for p in products()
    ]
    for number in range(4):
        with zipfile.ZipFile(folder / f"{number + 1}.json.zip", "w") as archive:
            archive.writestr(f"{number + 1}.json", json.dumps(entries[number::4]))
    return folder


def test_tables_are_made_once_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_catalogue(tmp_path / "data")
    first, second = (catalogue.prepare(folder, tmp_path / cache) for cache in ("a", "b"))
    for name in (catalogue.PRODUCTS, catalogue.PAIRS):
        assert pl.read_parquet(first / name).equals(pl.read_parquet(second / name))
    monkeypatch.setattr(catalogue.products, "read", lambda _: pytest.fail("the catalogue was read again"))
    assert catalogue.prepare(folder, tmp_path / "a") == first
    products = pl.read_parquet(first / catalogue.PRODUCTS).sort("id")
    assert len(products) == 13
    row = products.row(by_predicate=pl.col("id") == "3", named=True)
    assert row["text"] == (
        "Acme C3 network cable 3 m Blue. The Acme C3 network cable 3 m Blue & more words that describe it"
    )
    # Texts as they are, the names of what it has, no numbers, and not what it has not.
    assert row["full_text"] == f"{row['text']} Blue rohs"


def test_each_query_is_one_search_with_the_products_that_answer_it(tmp_path: Path) -> None:
    folder = catalogue.prepare(write_catalogue(tmp_path / "data"), tmp_path / "cache")
    rows = pl.read_parquet(folder / catalogue.PAIRS)
    assert rows.group_by("search").agg(pl.col("query").n_unique(), pl.col("part").n_unique()).drop("search").max().row(
        0
    ) == (1, 1)
    of_cables = set(rows.filter(pl.col("query") == "network cables")["product"])
    assert of_cables == {"0", "1", "2", "3", "4", "20"}
    assert set(rows.filter(pl.col("query") == "red network cable")["product"]) >= {"2"}
    assert rows["weight"].min() > 0


def test_words_of_several_titles_are_queries_for_the_products_that_say_them_best(tmp_path: Path) -> None:
    folder = catalogue.prepare(write_catalogue(tmp_path / "data"), tmp_path / "cache")
    rows = pl.read_parquet(folder / catalogue.PAIRS).filter(kind="words")
    # "optical" is in six titles, "acme optical" in none; "grey" in two titles (the fourth cable and mouse), "2" alone
    # says nothing.
    assert {"optical", "usb optical"} <= set(rows["query"])
    assert not {"acme optical", "grey", "2"} & set(rows["query"])
    of_optical = rows.filter(query="optical").sort("weight", descending=True)
    assert set(of_optical["product"]) == {"10", "11", "12", "13", "14", "22"}
    # 2 for the kind, by 1 / log2(place + 1): 1, 0.6309, 0.5, 0.4307, 0.3869, 0.3562.
    assert of_optical["weight"].to_list() == pytest.approx([2.0, 1.2619, 1.0, 0.8614, 0.7737, 0.7124], abs=1e-4)


def test_a_misspelling_is_one_slip_away() -> None:
    generator = random.Random(5)
    slips = {pairs._misspelt("wireless mouse", generator) for _ in range(200)}
    assert "wirelessmouse" in slips
    assert all(abs(len(slip) - len("wireless mouse")) <= 1 for slip in slips)
    assert len(slips) > 20


def test_a_folder_without_the_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no 1\.json\.zip and 2\.json\.zip and"):
        catalogue.prepare(tmp_path, tmp_path / "cache")
    folder = write_catalogue(tmp_path / "data")
    (folder / "3.json.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"3\.json\.zip: not a catalogue of products"):
        catalogue.prepare(folder, tmp_path / "cache")
