"""`init`: roles and types that it infers for the columns of tables, and a drafted recipe that trains."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.trainer import world
from trainer.data.dataset import load_dataset
from trainer.drafting.column_types import infer_type
from trainer.drafting.csv_dialect import open_source
from trainer.drafting.draft import draft
from trainer.errors import DataError, RecipeError
from trainer.recipe import loading
from trainer.recipe.feature_inputs import HistoryInput

# 40 people and 12 things; 240 meetings, each person six of them, none with all values of another.
MEETINGS = [(f"u{n % 40}", f"i{(n * 7 + n // 40) % 12}") for n in range(240)]


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]], separator: str = ",") -> Path:
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in [header, *rows]), encoding="utf-8")
    return path


def init(folder: Path, **tables: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `init --json` prints, and the recipe that it writes."""
    out = folder / "mine.toml"
    options = [word for name, path in tables.items() for word in (f"--{name}", path)]
    printed = json.loads(world.command("init", *options, "--out", out, "--json"))
    return printed, tomllib.loads(out.read_text(encoding="utf-8"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return world.write_shop(tmp_path / "shop").parent


def init_shop(folder: Path, *options: Any) -> Path:
    tables = (("interactions", "purchases"), ("items", "products"), ("users", "buyers"))
    words = [word for name, file in tables for word in (f"--{name}", folder / f"{file}.csv")]
    world.command("init", *words, "--out", folder / "mine.toml", *options)
    return folder / "mine.toml"


def test_the_tables_of_the_shop_are_recognised(shop: Path) -> None:
    recipe = loading.load(str(init_shop(shop)))
    source = recipe.interactions
    assert (source.path, source.user, source.item, source.time) == ("purchases.csv", "buyer", "product", "bought_at")
    assert recipe.items is not None
    assert {n: (a.column, a.type) for n, a in recipe.items.attributes.items()} == {
        "title": ("title", "string"),
        "year": ("year", "int"),
        "genres": ("genres", "string_list"),
    }
    # A title is for display: each product has its own.
    assert [(f.name, f.kind) for f in recipe.item_tower.features] == [
        ("item_id", "categorical"),
        ("year", "numeric"),
        ("genres", "multi_categorical"),
    ]
    assert [(f.name, f.kind) for f in recipe.query_tower.features] == [
        ("history", "history"),
        ("age", "numeric"),
        ("gender", "categorical"),
    ]
    assert (recipe.split.kind, recipe.training.loss) == ("leave_last_one_out", "full_softmax")


@pytest.mark.filterwarnings(world.KERAS_AND_NUMPY)
def test_the_recipe_trains_to_the_end(shop: Path) -> None:
    path = init_shop(shop)
    result = json.loads(world.command("train", path, "--run", shop / "run", "--epochs", 12, "--json"))
    # Chance is 10 of the 28 products that a buyer has not bought; popularity reaches 0.2.
    assert result["metrics"]["two-tower"]["recall@10"] > 0.5
    assert (shop / "run" / "evaluation.json").is_file()


def test_an_existing_recipe_is_kept_unless_forced(shop: Path) -> None:
    (shop / "mine.toml").write_text("precious")
    with pytest.raises(RecipeError, match=r"mine\.toml exists and is kept; name another file with --out, or .*--force"):
        init_shop(shop)
    assert (shop / "mine.toml").read_text() == "precious"
    init_shop(shop, "--force")
    assert loading.load(str(shop / "mine.toml")).name == "mine"


def test_a_semicolon_table_with_bom_quotes_and_no_time_is_read(tmp_path: Path) -> None:
    rows = [(f'"{user}"', f'"{item}"', '"2"') for user, item in MEETINGS]
    events = write(tmp_path / "kaeufe.csv", ['\ufeff"KundenNr"', '"ArtikelNr"', '"Menge"'], rows, ";")
    rows = [(f"i{n}", f'"Ding; Nr. {n}"', n + 0.5, ["rot", "grün"][n % 2]) for n in range(12)]
    items = write(tmp_path / "artikel.csv", ["\ufeffArtikelNr", "Titel", "Preis", "Farbe"], rows, ";")

    printed, recipe = init(tmp_path, interactions=events, items=items)

    keys = {"path": "kaeufe.csv", "separator": ";", "user": "KundenNr", "item": "ArtikelNr"}
    assert recipe["interactions"] == keys
    assert recipe["items"]["attributes"] == {
        "titel": {"column": "Titel"},
        "preis": {"column": "Preis", "type": "float"},
        "farbe": {"column": "Farbe"},
    }
    assert [feature["name"] for feature in recipe["item_tower"]["features"]] == ["item_id", "preis", "farbe"]
    assert [doubt for doubt in printed["doubts"] if "order of the rows" in doubt]
    assert [doubt for doubt in printed["doubts"] if "'Menge' might weigh" in doubt]
    found = load_dataset(loading.load(str(tmp_path / "mine.toml")), tmp_path)
    assert (len(found.events), found.item_column("titel")[0]) == (240, "Ding; Nr. 0")


def test_parquet_with_datetimes_lists_and_names_that_say_nothing_is_read(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1)
    pl.DataFrame(
        {
            "a": [int(item[1:]) for _, item in MEETINGS],
            "b": [user for user, _ in MEETINGS],
            "c": [start + timedelta(hours=n) for n in range(240)],
            "device": ["ios", "web"] * 120,
        }
    ).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame(
        {
            "sku": list(range(12)),
            "tags": [["x", "y"][: n % 3] for n in range(12)],
            "added": [date(2020, 1, 1)] * 12,
            "same": [1] * 12,
        }
    ).write_parquet(tmp_path / "things.parquet")

    printed, recipe = init(tmp_path, interactions=tmp_path / "events.parquet", items=tmp_path / "things.parquet")

    # The item is told by the ids of the items table, though it stands before the user.
    assert recipe["interactions"] == {"path": "events.parquet", "user": "b", "item": "a", "time": "c"}
    assert recipe["items"]["id"] == "sku"
    assert [feature["name"] for feature in recipe["item_tower"]["features"]] == ["item_id", "tags"]
    assert [doubt for doubt in printed["doubts"] if "'added' holds dates" in doubt]
    assert [doubt for doubt in printed["doubts"] if doubt.startswith("Not used of the interactions: 'device'. ")]
    assert printed["interactions"]["user"] == "b"
    assert load_dataset(loading.load(str(tmp_path / "mine.toml")), tmp_path).events.times[0] == 1_767_225_600 + 0


def test_what_is_unsure_stands_in_the_recipe_and_in_the_json_alike(tmp_path: Path) -> None:
    rows = [(a, b, 1_700_000_000_000 + n, n % 5 + 1) for n, (a, b) in enumerate(MEETINGS)]
    events = write(tmp_path / "events.tsv", ["left", "right", "timestampMs", "stars"], rows, "\t")
    printed, recipe = init(tmp_path, interactions=events)
    assert recipe["interactions"]["time"] == "timestampMs"
    assert recipe["interactions"]["rating"] == "stars"
    for part in (
        "it might be the other way round",
        "are read as milliseconds",
        "(1 to 5); set interactions.min_rating",
    ):
        assert [doubt for doubt in printed["doubts"] if part in doubt]
        text = (tmp_path / "mine.toml").read_text().replace("\n#  ", "")
        assert part in text


def test_every_line_of_advice_in_the_recipe_can_be_taken(tmp_path: Path) -> None:
    rows = [(*pair, n % 5 + 1, n % 3 + 1, ["ios", "web"][n % 2]) for n, pair in enumerate(MEETINGS)]
    events = write(tmp_path / "events.csv", ["user", "item", "stars", "qty", "device"], rows)
    init(tmp_path, interactions=events)
    text = (tmp_path / "mine.toml").read_text()
    # The possible event features: device, rating and amount, as there is no time.
    chosen = next(line for line in text.splitlines() if line.startswith("# event_features = ")).removeprefix("# ")
    text = text.replace('name = "history", ', f'name = "history", {chosen}, ')
    of_events = ("[interactions.attributes]", "device = {", "stars = {", "qty = {")
    for line in ("min_rating = 4", 'weight = "qty"', *of_events):
        assert f"\n# {line}" in text
        text = text.replace(f"\n# {line}", f"\n{line}")
    recipe = loading.parse(tomllib.loads(text), "mine")
    assert (recipe.interactions.min_rating, recipe.interactions.weight) == (4, "qty")
    (history,) = recipe.query_tower.features
    assert isinstance(history, HistoryInput)
    assert [(each.kind, getattr(each, "name", ""), getattr(each, "log", False)) for each in history.event_features] == [
        ("categorical", "device", False), ("numeric", "stars", False), ("numeric", "qty", True)
    ]  # fmt: skip
    # Of stars 1 to 5 in turn, 4 and 5 are kept.
    assert len(load_dataset(recipe, tmp_path).events) == 96


def test_ids_that_are_written_differently_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = write(tmp_path / "events.csv", ["user_id", "item_id"], MEETINGS)
    items = write(tmp_path / "items.csv", ["item_id", "price"], [(f"I-{n}", n) for n in range(12)])
    with pytest.raises(DataError, match="The tables cannot be trained on as they are"):
        init(tmp_path, interactions=events, items=items)
    assert "not sure: Only 0% of the ids in column 'item_id' are in column 'item_id'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5,6\n", r"the first line, \['1', '2', '3'\], looks like data; put a line with the names"),
        ("user\nu1\n", "no table with several columns"),
        ("user,item,user\na,b,c\n", "column 'user' is duplicated"),
        ("", "no table with several columns"),
        ("user,item\na,b\nc\n", "line 3: 1 cells, the header has 2"),
        ("user,item\n", "no rows"),
        ("user,item\na,b\na,c\n", "no two columns can be a user and an item"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(DataError, match=rf"events\.csv.*{message}"):
        draft(tmp_path / "events.csv", None, None, "mine")


def test_few_events_a_user_and_many_items_change_split_and_loss(tmp_path: Path) -> None:
    rows = [(f"u{n}", f"i{n // 2}", 1_700_000_000 + n) for n in range(40_004)]
    events = write(tmp_path / "events.csv", ["user", "item", "time"], rows)
    drafted = draft(events, None, None, "mine")
    assert (drafted.item_count, drafted.split) == (20_002, "global_temporal")
    assert drafted.choices.training["loss"] == "sampled_softmax"
    without = draft(write(tmp_path / "untimed.csv", ["user", "item"], [row[:2] for row in rows]), None, None, "mine")
    assert without.split == "random"


@pytest.mark.parametrize(
    ("name", "user", "item"),
    [
        (("userId", "itemId"), 0, 1),
        (("product", "customer"), 1, 0),
        (("ASIN", "reviewerID"), 1, 0),
        (("item_id:token", "user_id:token"), 1, 0),
        (("Household Key", "SKU"), 0, 1),
        (("artikel_nr", "kunden_nr"), 1, 0),
    ],
)
def test_names_in_many_spellings_are_known(tmp_path: Path, name: tuple[str, str], user: int, item: int) -> None:
    drafted = draft(write(tmp_path / "events.csv", name, MEETINGS), None, None, "mine")
    assert (drafted.roles.user, drafted.roles.item) == (name[user], name[item])


@pytest.mark.parametrize(
    ("cells", "type_", "kind", "keys"),
    [
        ([f"{n}" for n in range(30)], "int", "numeric", {}),
        ([f"{n / 8}" for n in range(30)], "float", "numeric", {}),
        (["1980", "NA", *[f"{1950 + n}" for n in range(60)]], "int", "numeric", {"missing": ["NA"]}),
        (["1980", "V", *[f"{1950 + n}" for n in range(60)]], "int", "numeric", {"missing": ["V"]}),
        ([f"00{n % 9}" for n in range(30)], "string", "categorical", {}),
        (["none", "nurse", "N/A"] * 10, "string", "categorical", {"missing": ["N/A"]}),
        (["1", "2", "3"] * 10, "int", "categorical", {}),
        ([f"A thing of its own {n}" for n in range(30)], "string", None, {}),
        (["a|b", "b|c", "a|c", "a"] * 10, "string_list", "multi_categorical", {"separator": "|"}),
        (["a, b", "b, c", "a, c", "a"] * 10, "string_list", "multi_categorical", {"separator": ", "}),
        (["New York", "San Jose"] * 10, "string", "categorical", {}),
        (["true", "false"] * 10, "string", "categorical", {}),
        (["same"] * 10, "string", None, {}),
        ([None] * 5, None, None, {}),
    ],
)
def test_kinds_follow_from_the_cells(cells: list[Any], type_: str | None, kind: str | None, keys: dict) -> None:
    found = infer_type(pl.Series("column", cells, dtype=pl.String))
    assert (found.type, found.feature.get("kind"), found.keys) == (type_, kind, keys)


def test_sizes_of_embeddings_grow_with_the_values_and_many_are_hashed() -> None:
    # Of 4, 400 and 60,000 values: 2 ** round(log2(n) / 2) is 2, 16 and 256, which is cut to 32.
    sizes = []
    for count in (4, 400, 60_000):
        sizes.append(infer_type(pl.Series("shelf", [f"v{n % count}" for n in range(3 * count)])).feature)
    assert sizes == [
        {"kind": "categorical", "embedding_dim": 2},
        {"kind": "categorical", "embedding_dim": 16, "min_count": 2},
        {"kind": "categorical", "embedding_dim": 32, "hash_buckets": 32_768},  # 2 ** 15 is below 60,000, 2 ** 16 above
    ]


def test_a_table_whose_quotes_are_not_quotes_is_read_without(tmp_path: Path) -> None:
    rows = [(*pair, '"open' if n % 3 else '"size 3" fits') for n, pair in enumerate(MEETINGS)]
    source = open_source(write(tmp_path / "events.tsv", ["user", "item", "note"], rows, "\t"))
    assert (source.separator, source.quote, source.frame["note"][1]) == ("\t", "", '"open')


def test_single_quotes_are_recognised(tmp_path: Path) -> None:
    rows = [(f"'{user}'", f"'{item}, x'") for user, item in MEETINGS]
    source = open_source(write(tmp_path / "events.csv", ["'user'", "'item'"], rows))
    assert (source.separator, source.quote, source.frame["item"][0]) == (",", "'", "i0, x")


def test_odd_names_are_written_as_toml(tmp_path: Path) -> None:
    names = ["user", "item", 'the "colour" \\ 🎈', "id"]
    events = write(tmp_path / "events.csv", names[:2], MEETINGS)
    rows = [(f"i{n}", ["red", "blue"][n % 2], n % 3) for n in range(12)]
    items = write(tmp_path / "items.tsv", ["item", names[2], "id"], rows, "\t")
    _, recipe = init(tmp_path, interactions=events, items=items)
    assert recipe["items"]["attributes"]["the_colour"] == {"column": names[2]}
    assert recipe["items"]["attributes"]["id_2"]["column"] == "id"  # `id` is no name of an attribute
