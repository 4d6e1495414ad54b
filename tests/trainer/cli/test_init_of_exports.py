"""`init` on tables as shops and other programs export them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.trainer.cli.test_init import MEETINGS, init, write
from trainer.data.dataset import load_dataset
from trainer.drafting.column_types import infer_type
from trainer.errors import DataError
from trainer.recipe import loading


def test_a_shop_as_a_shop_exports_it(tmp_path: Path) -> None:
    """Semicolons, decimal commas, guest orders without a customer, a blank time, lists in cells, blanks around ids."""
    rows = [
        (
            f"o{n}",
            "" if n % 6 == 0 else user,
            f"{item} " if n % 5 == 0 else item,
            f"2026-11-{1 + n // 10:02} 10:00 UTC",
            "24,90",
        )
        for n, (user, item) in enumerate(MEETINGS)
    ]
    rows[7] = (*rows[7][:3], "", "3,50")
    events = write(tmp_path / "orders.csv", ["order_id", "customer_id", "article", "ordered_at", "total"], rows, ";")
    items = [
        (f"i{n}", f"Lamp; no. {n}", f"{n},90 €", "kitchen|bath" if n % 2 else "kitchen", f"['red', 'size {n}']")
        for n in range(12)
    ]
    table = write(
        tmp_path / "articles.csv",
        ["article", "title", "price", "rooms", "tags"],
        [tuple(f'"{c}"' for c in r) for r in items],
        ";",
    )

    printed, recipe = init(tmp_path, interactions=events, items=table)

    found = recipe["interactions"]
    assert [found[key] for key in ("user", "item", "time", "missing")] == [
        "customer_id", "article", "ordered_at", "leave_out"
    ]  # fmt: skip
    doubts = " ".join(printed["doubts"])
    assert "40 of 240 rows have no 'customer_id' (the first is line 2): a training leaves them out" in doubts
    assert "1 of 240 rows have no 'ordered_at' (the first is line 9)" in doubts
    assert "comma" not in doubts  # 24,90 proves what the comma is
    assert "a comma is the decimal separator, as in '0,90'" in (tmp_path / "mine.toml").read_text()
    assert recipe["items"]["attributes"] == {
        "title": {"column": "title"},
        "price": {"column": "price", "type": "float", "decimal": ","},
        "rooms": {"column": "rooms", "type": "string_list", "separator": "|"},
        "tags": {"column": "tags", "type": "string_list"},
    }
    data = load_dataset(loading.load(str(tmp_path / "mine.toml")), tmp_path)
    assert len(data.events) == 199
    assert len(data.items.ids) == 12
    assert (data.item_column("price")[1], data.item_column("tags")[1]) == (1.9, ("red", "size 1"))
    notes = " ".join(data.notes)
    for part in ("41 of 240 interactions have no user, item or time", "blanks around ids"):
        assert part in notes


@pytest.mark.parametrize("customer", ["Kundennummer", "Bestellt von"])
def test_guest_orders_of_a_german_shop(tmp_path: Path, customer: str) -> None:
    """The customer is recognised by its name or by the ids of the users table, and not taken for the order number."""
    rows = [(f"B{n}", "" if n % 6 == 0 else user, item) for n, (user, item) in enumerate(MEETINGS)]
    events = write(tmp_path / "bestellungen.csv", ["Bestellnummer", customer, "Artikelnummer"], rows, ";")
    people = [(user, "DE" if n % 2 else "AT") for n, user in enumerate(sorted({user for user, _ in MEETINGS}))]
    users = write(tmp_path / "kunden.csv", ["Kundennummer", "Land"], people, ";")
    printed, recipe = init(tmp_path, interactions=events, users=users)
    assert (recipe["interactions"]["user"], recipe["interactions"]["item"]) == (customer, "Artikelnummer")
    assert recipe["users"]["id"] == "Kundennummer"
    assert not [doubt for doubt in printed["doubts"] if doubt.startswith(("interactions.", "The tables cannot"))]


def test_a_first_row_without_a_time_is_told(tmp_path: Path) -> None:
    rows = [(a, b, "" if n == 0 else "24.11.2026 03:16") for n, (a, b) in enumerate(MEETINGS)]
    events = write(tmp_path / "events.csv", ["user", "item", "datum"], rows)
    printed, recipe = init(tmp_path, interactions=events)
    assert recipe["interactions"]["time"] == "datum"
    doubts = " ".join(printed["doubts"])
    assert "1 of 240 rows have no 'datum' (the first is line 2)" in doubts


@pytest.mark.parametrize(
    ("last", "is_open"), [("12.11.2026", True), ("13.11.2026", False), ("24.11.2026 10:00", False), ("", True)]
)
def test_the_order_of_day_and_month_is_open_unless_a_day_above_12_proves_it(
    tmp_path: Path, last: str, is_open: bool
) -> None:
    rows = [(a, b, last if n == 200 else "05.11.2026 03:16") for n, (a, b) in enumerate(MEETINGS)]
    events = write(tmp_path / "events.csv", ["user", "item", "datum"], rows)
    printed, _ = init(tmp_path, interactions=events)
    said = "'05.11.2026 03:16' in 'datum' is read as 2026-11-05; write dates as year-month-day if that is wrong."
    assert (said in printed["doubts"]) is is_open


@pytest.mark.parametrize(
    ("cells", "is_certain"),
    [(("1,5", "2,25"), True), (("1,234", "5,1"), True), (("1,234", "5,678"), False), (("1,234,567", "1,234"), True)],
)
def test_a_comma_is_certain_where_a_cell_proves_what_it_is(cells: tuple[str, str], is_certain: bool) -> None:
    inferred = infer_type(pl.Series("price", cells * 20))
    assert (inferred.type in ("int", "float"), "comma" in inferred.why) == (is_certain, is_certain)
    assert "comma" not in inferred.doubt


def test_tables_that_cannot_be_trained_on_are_an_error_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = write(tmp_path / "events.csv", ["user_id", "item_id"], MEETINGS)
    items = write(tmp_path / "items.csv", ["item_id", "price"], [(f"i{n % 12}", n % 7) for n in range(24)])
    with pytest.raises(DataError, match=r"cannot be trained on .*is in several rows.*name the right table\?"):
        init(tmp_path, interactions=events, items=items)
    assert (tmp_path / "mine.toml").exists()
    assert "Read it, then" not in capsys.readouterr().err


def test_a_column_of_dates_is_said_to_be_one(tmp_path: Path) -> None:
    events = write(tmp_path / "events.csv", ["user_id", "item_id"], MEETINGS)
    rows = [(f"i{n}", f"2026-{1 + n % 9:02}-03", f"k{n % 8}") for n in range(12)]
    printed, _ = init(tmp_path, interactions=events, items=write(tmp_path / "i.csv", ["item_id", "since", "key"], rows))
    assert "items: 'since' holds dates, which no feature reads" in " ".join(printed["doubts"])
    text = (tmp_path / "mine.toml").read_text()
    assert "# for display: dates" in text
    assert "# for display: 8 values in 12 rows" in text


def test_each_count_of_the_summary_says_what_it_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # MEETINGS has 240 rows; two more are guest orders. The items table has 500 rows, of which most were never sold.
    rows = [*MEETINGS, ("", MEETINGS[0][1]), ("", MEETINGS[1][1])]
    users, items = {user for user, _ in MEETINGS}, {item for _, item in MEETINGS}
    events = write(tmp_path / "events.csv", ["user_id", "item_id"], rows)
    table = [(item, f"name {item}", "red") for item in [*sorted(items), *(f"x{n}" for n in range(500 - len(items)))]]
    init(tmp_path, interactions=events, items=write(tmp_path / "items.csv", ["item_id", "name", "colour"], table))
    said = (
        f"240 interactions of {len(users)} users with {len(items)} items, 500 rows in the items table, 2 rows without "
        "a user, an item or a time do not count; user"
    )
    assert said in capsys.readouterr().err


def test_blanks_in_a_column_that_is_not_named_as_an_id_are_told(tmp_path: Path) -> None:
    rows = [("" if n == 3 else a, b) for n, (a, b) in enumerate(MEETINGS)]
    events = write(tmp_path / "events.csv", ["left", "right"], rows)
    with pytest.raises(DataError, match=r"no two columns can be .* 'left' \(1 empty cells\), 'right'"):
        init(tmp_path, interactions=events)


def test_a_folder_of_parquet_parts_is_read(tmp_path: Path) -> None:
    for name in ("events", "events.parquet"):
        folder = tmp_path / name
        folder.mkdir()
        for part in range(2):
            half = MEETINGS[part::2]
            pl.DataFrame({"user_id": [u for u, _ in half], "item_id": [i for _, i in half]}).write_parquet(
                folder / f"part-{part}.parquet"
            )
        init(tmp_path / name, interactions=folder)
        assert len(load_dataset(loading.load(str(folder / "mine.toml")), folder).events) == 240
    (tmp_path / "days" / "day=1").mkdir(parents=True)
    with pytest.raises(DataError, match="a folder of folders such as day=1"):
        init(tmp_path, interactions=tmp_path / "days")


def test_a_line_of_items_for_each_user(tmp_path: Path) -> None:
    path = tmp_path / "Toys.txt"
    path.write_text(
        "".join(f"u{user} " + " ".join(f"i{(user + n) % 9}" for n in range(4)) + "\n" for user in range(30))
    )
    _, recipe = init(tmp_path, interactions=path)
    assert recipe["interactions"] == {"path": "Toys.txt", "format": "sequences"}
    data = load_dataset(loading.load(str(tmp_path / "mine.toml")), tmp_path)
    assert (len(data.events), len(data.user_ids), len(data.items.ids)) == (120, 30, 9)


def test_a_file_that_is_neither_a_table_nor_sequences_says_why(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("u1\nu2\n")
    with pytest.raises(
        DataError, match=r"list.txt: no table with several columns, and no line of items .* line 1: user"
    ):
        init(tmp_path, interactions=path)
