"""Reading a data set from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.world import recipe
from trainer.data.dataset import Dataset, load_dataset
from trainer.errors import DataError
from trainer.recipe import loading

PURCHASES = "buyer,product,bought_at\nbob,p2,3\namy,p1,2\namy,p2,1\namy,p3,2\n"
PRODUCTS = "product,title,year,genres\np2,Two,1990,drama|comedy\np1,,,\np3,Three,2000,\n"
BUYERS = "buyer,age,gender\nbob,40,m\namy,,f\nzoe,30,\n"


def load(folder: Path, *, purchases: str = PURCHASES, products: str = PRODUCTS, **changes: Any) -> Dataset:
    (folder / "purchases.csv").write_text(purchases)
    (folder / "products.csv").write_text(products)
    (folder / "buyers.csv").write_text(BUYERS)
    return load_dataset(recipe(**changes), folder)


def events(dataset: Dataset) -> list[tuple[str, str, float, float]]:
    e = dataset.events
    return [
        (dataset.user_ids[user], dataset.items.ids[item], time, weight)
        for user, item, time, weight in zip(e.users, e.items, e.times, e.weights, strict=True)
    ]


def test_events_are_in_order_of_user_time_and_row(tmp_path: Path) -> None:
    assert events(load(tmp_path)) == [
        ("amy", "p2", 1.0, 1.0),
        ("amy", "p1", 2.0, 1.0),
        ("amy", "p3", 2.0, 1.0),
        ("bob", "p2", 3.0, 1.0),
    ]


def test_attributes_belong_to_their_ids(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    assert dataset.user_ids == ("amy", "bob", "zoe")
    assert dataset.user_columns == {"age": [None, 40.0, 30.0], "gender": ["f", "m", None]}
    assert dataset.items.ids == ("p1", "p2", "p3")
    assert dataset.item_column("title") == [None, "Two", "Three"]
    assert dataset.item_column("year") == [None, 1990, 2000]
    assert dataset.item_column("genres") == [None, ("drama", "comedy"), None]
    assert dataset.notes == ()


def test_the_order_of_rows_counts_where_there_is_no_time(tmp_path: Path) -> None:
    dataset = load(tmp_path, interactions={"time": None})
    assert events(dataset) == [
        ("amy", "p1", 1.0, 1.0),
        ("amy", "p2", 2.0, 1.0),
        ("amy", "p3", 3.0, 1.0),
        ("bob", "p2", 0.0, 1.0),
    ]


def test_interactions_with_items_that_are_not_listed_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, purchases=PURCHASES + "amy,p8,5\ncem,p9,5\ncem,p9,6\n")
    assert dataset.notes == (
        "3 of 7 interactions are left out: their 2 items are not in products.csv (for instance 'p8'), so they may have "
        "been withdrawn; items.only_listed = false keeps them, and recommends them without attributes.",
    )
    assert dataset.items.ids == ("p1", "p2", "p3")
    assert dataset.user_ids == ("amy", "bob", "zoe")
    assert events(dataset) == events(load(tmp_path))


def test_what_is_met_but_not_described_is_noted(tmp_path: Path) -> None:
    dataset = load(tmp_path, purchases=PURCHASES + "cem,p9,5\n", items={"only_listed": False})
    assert dataset.notes == (
        "1 of 3 users of the interactions are not in buyers.csv (for instance 'cem'): they have no attributes.",
        "1 of 4 items of the interactions are not in products.csv (for instance 'p9'): they have no attributes.",
    )
    assert dataset.items.ids == ("p1", "p2", "p3", "p9")
    assert dataset.item_column("year") == [None, 1990, 2000, None]
    assert events(dataset)[-1] == ("cem", "p9", 5.0, 1.0)


def test_catalogue_is_what_was_met_where_there_is_no_table(tmp_path: Path) -> None:
    features = [{"name": "item_id", "kind": "categorical"}]
    dataset = load(tmp_path, items={}, item_tower={"features": features})
    assert dataset.items.ids == ("p1", "p2", "p3")
    raw = recipe(item_tower={"features": features}).to_json() | {"items": None}
    dataset = load_dataset(loading.parse(raw, "shop"), tmp_path)
    assert (dataset.items.ids, dataset.items.attributes) == (("p1", "p2", "p3"), {})


def test_weights_are_read_and_those_not_above_zero_refused(tmp_path: Path) -> None:
    weighed = {"weight": "n"}
    found = load(tmp_path, purchases="buyer,product,bought_at,n\namy,p1,1,2.5\n", interactions=weighed)
    assert events(found) == [("amy", "p1", 1.0, 2.5)]
    for bad in ("0", "-1"):
        text = f"buyer,product,bought_at,n\namy,p1,1,2.5\namy,p2,1,{bad}\n"
        with pytest.raises(DataError, match=r"purchases\.csv, column 'n': line 3.* is not a weight; .*remove the row"):
            load(tmp_path, purchases=text, interactions=weighed)
    with pytest.raises(
        DataError, match=r"purchases\.csv, column 'n': line 2: an empty cell where every row needs a number"
    ):
        load(tmp_path, purchases="buyer,product,bought_at,n\namy,p1,1,\n", interactions=weighed)


def test_rows_rated_too_low_are_left_out(tmp_path: Path) -> None:
    text = "buyer,product,bought_at,stars\namy,p1,1,4\namy,p2,2,3.5\nbob,p3,3,5\n"
    rated = {"rating": "stars", "min_rating": 4}
    assert [event[:2] for event in events(load(tmp_path, purchases=text, interactions=rated))] == [
        ("amy", "p1"),
        ("bob", "p3"),
    ]
    with pytest.raises(DataError, match=r"purchases\.csv: no row has stars of at least 6"):
        load(tmp_path, purchases=text, interactions={"rating": "stars", "min_rating": 6})


def test_missing_cells_of_the_recipe_are_missing(tmp_path: Path) -> None:
    products = "product,title,year,genres\np1,One,V,\np2,Two,unknown,\np3,Three,1999,\n"
    attributes = {
        "title": {"column": "title"},
        "year": {"column": "year", "type": "int", "missing": ["V", "unknown"]},
        "genres": {"column": "genres", "type": "string_list"},
    }
    dataset = load(tmp_path, products=products, items={"attributes": attributes})
    assert dataset.item_column("year") == [None, None, 1999]
    with pytest.raises(
        DataError, match=r"products\.csv, column 'year': line 2: 'V', line 3: 'unknown' is not a finite"
    ):
        load(tmp_path, products=products)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (
            "purchases",
            "buyer,product,bought_at\n,p1,1\n",
            "column 'buyer': line 2: an empty cell where every row needs a value",
        ),
        (
            "purchases",
            "buyer,product,bought_at\namy,,1\n",
            "column 'product': line 2: an empty cell where every row needs a value",
        ),
        ("purchases", "buyer,product,bought_at\namy,p1,now\n", "column 'bought_at': line 2: 'now' is not a time"),
        (
            "products",
            "product,title,year,genres\n,x,1,\n",
            "column 'product': line 2: an empty cell where every row needs a value",
        ),
        ("products", "product,title,year,genres\na,x,1,\na,y,2,\n", "line 2: 'a', line 3: 'a' is in several rows"),
        ("products", "product,title,year,genres\na,x,old,\n", "column 'year': line 2: 'old' is not a finite number"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, table: str, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, **{table: text})
    assert f"{table}.csv" in str(caught.value)
    assert message in str(caught.value)
