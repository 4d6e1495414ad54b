"""Lists of everybody, beside the answers of both running services and of the tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import ROOT, ann_service, query_tower_service
from tests.trainer.recommending.world import films, lists_of, viewers, write_lists
from tests.trainer.world import KERAS_AND_NUMPY, Recorded, Shop, command
from trainer.errors import DataError, RunError
from two_tower_client import Retriever

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.mark.parametrize("shards", [1, 3])
def test_lists_are_those_of_the_running_services(store: FolderStore, tmp_path: Path, shards: int) -> None:
    films(store, shards)
    frame = viewers(60)
    frame.write_parquet(tmp_path / "viewers.parquet")
    result = write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists")
    assert (result["users"], result["rows"], result["short_lists"]) == (60, 1200, 0)
    lists = lists_of(tmp_path / "lists")
    assert list(lists) == frame["viewer"].to_list()
    with query_tower_service(store) as tower, ann_service(store) as ann:
        for service in (tower, ann):
            service.wait_until_serving()
        with Retriever(f"localhost:{tower.port}", f"localhost:{ann.port}", timeout_s=20) as retriever:
            for row in frame.iter_rows(named=True):
                user, years, further = row.pop("viewer"), row.pop("years"), row.pop("exclude_item_ids") or []
                features = {"age": years, **row}
                answer = retriever.retrieve(features, 20, exclude=[*row["watched"], *further])
                items, scores = lists[user]
                assert items == [hit.item_id for hit in answer]
                assert scores == pytest.approx([hit.score for hit in answer], abs=1e-6)
                assert not {*row["watched"], *further} & set(items)


def test_the_shop_gets_all_items_that_a_user_has_not_bought(shop: Shop, tmp_path: Path) -> None:
    data = shop.recipe.parent
    tables = ("--users", data / "buyers.csv", "--interactions", data / "purchases.csv")
    told = command("recommend", "--store", shop.store.root, *tables, "--k", 50, "--out", tmp_path / "lists", "--json")
    result = json.loads(told)
    # 60 users have bought 12 of 40 items each.
    assert (result["users"], result["rows"], result["short_lists"], result["left_out"]) == (60, 60 * 28, 60, 720)
    bought = pl.read_csv(data / "purchases.csv")
    lists = lists_of(tmp_path / "lists")
    for (user,), rows in bought.group_by("buyer"):
        assert set(lists[str(user)][0]) == {f"p{item:02}" for item in range(40)} - set(rows["product"])
    command("recommend", "--store", shop.store.root, *tables, "--k", 40, "--out", tmp_path / "all", "--repeats")
    assert {len(items) for items, _ in lists_of(tmp_path / "all").values()} == {40}


def test_interactions_make_the_histories_that_a_table_of_users_can_hold(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    frame = viewers(40).drop("exclude_item_ids")
    frame.write_parquet(tmp_path / "viewers.parquet")
    frame.drop("watched").write_parquet(tmp_path / "plain.parquet")
    generator = np.random.default_rng(3)
    events = frame.select("viewer", film="watched").explode("film").drop_nulls()
    events = events.with_columns(at=pl.Series(np.arange(events.height) + 1.7e9))
    # The order of the file is not that of the times.
    events[generator.permutation(events.height)].write_csv(tmp_path / "events.csv")
    write_lists(store, tmp_path / "viewers.parquet", tmp_path / "one")
    told = Recorded()
    result = write_lists(
        store, tmp_path / "plain.parquet", tmp_path / "two", told, interactions=tmp_path / "events.csv"
    )
    assert not [note for note in told.notes if "get no list" in note]
    assert lists_of(tmp_path / "one") == lists_of(tmp_path / "two")
    assert result["users_without_history"] == frame["watched"].list.len().to_list().count(0)
    # Without a table of users, those with events get a list, and know no other feature.
    alone = write_lists(store, None, tmp_path / "three", interactions=tmp_path / "events.csv")
    assert list(lists_of(tmp_path / "three")) == sorted(set(events["viewer"]))
    assert alone["users_without_history"] == 0
    with pytest.raises(
        DataError, match="the column 'watched' holds histories, and so does the table of --interactions"
    ):
        write_lists(store, tmp_path / "viewers.parquet", tmp_path / "four", interactions=tmp_path / "events.csv")


def test_csv_and_a_folder_of_parts_give_the_lists_of_one_file(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    frame = viewers(30)
    frame.write_parquet(tmp_path / "viewers.parquet")
    (tmp_path / "parts").mkdir()
    for number in range(3):
        frame[10 * number : 10 * number + 10].write_parquet(tmp_path / "parts" / f"{number}.parquet")
    as_json = [
        pl.Series(name, [json.dumps(cell or []) for cell in frame[name].to_list()]) for name in ("watched", "likes")
    ]
    joined = frame.with_columns(*as_json, pl.col("exclude_item_ids").list.join("|"))
    joined.write_csv(tmp_path / "viewers.csv")
    for name in ("viewers.parquet", "parts", "viewers.csv"):
        write_lists(store, tmp_path / name, tmp_path / f"lists of {name}")
    first, *others = (lists_of(tmp_path / f"lists of {name}") for name in ("viewers.parquet", "parts", "viewers.csv"))
    assert others == [first, first]


def test_says_what_a_reader_may_not_expect(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    frame = viewers(40).drop("gender", "exclude_item_ids")
    frame.write_parquet(tmp_path / "viewers.parquet")
    told = Recorded()
    write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists", told, k=2990)
    seen = int(frame["watched"].list.len().sum())
    # Vocabularies: i0 to i49, of which the newest four of a history are read.
    unknown = sum(
        not item[1:].isdigit() or int(item[1:]) >= 50 for watched in frame["watched"].to_list() for item in watched[-4:]
    )
    empty = frame["watched"].list.len().to_list().count(0)
    short = sum(len(set(watched) - {"gone"}) > 10 for watched in frame["watched"].to_list())
    assert told.notes == [
        "note: no column holds gender; these features are missing for all users.",
        f"note: {empty} of 40 users have no history; their lists come from their other features alone.",
        f"note: {unknown} values are in no vocabulary of the model, such as items without training events; the query "
        "tower reads them as unknown.",
        f"note: 6 of {seen} items to leave out are not in the catalogue.",
        f"note: {short} lists have fewer than 2,990 items: no more of the catalogue are left.",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"years": ["20", "old"]}, r"viewers\.csv, column 'years': line 3: 'old' is not a finite number"),
        (
            {"viewer": ["a", None]},
            r"viewers\.csv, column 'viewer': line 3: an empty cell where every row needs a value",
        ),
        ({"viewer": ["a", "a"]}, r"viewers\.csv, column 'viewer': line 2 and line 3: 'a' is in several rows"),
        ({"device": ["7", "new"]}, r"column 'device': line 3: 'new' is not a finite number"),
        (
            {"watched": ["i1|i2", "i3"], "viewer": None},
            r"no column 'viewer' or 'user_id'.*its columns are \['gender', 'watched'\]",
        ),
    ],
)
def test_a_wrong_row_is_named_before_the_first_list(
    store: FolderStore, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    films(store)
    columns = {
        name: cells
        for name, cells in {"viewer": ["a", "b"], "gender": ["f", "m"], **change}.items()
        if cells is not None
    }
    pl.DataFrame(columns).write_csv(tmp_path / "viewers.csv")
    with pytest.raises(DataError, match=message):
        write_lists(store, tmp_path / "viewers.csv", tmp_path / "lists")
    assert list((tmp_path / "lists.partial" / "parts").iterdir()) == []


def test_item_ids_that_are_floating_point_numbers_are_refused(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    pl.DataFrame({"viewer": ["a", "b"], "watched": [[], [1.0]]}).write_parquet(tmp_path / "viewers.parquet")
    with pytest.raises(
        DataError, match=r"column 'watched': row 2: \[1\.0\] holds floating-point numbers, which are no item ids"
    ):
        write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists")


def test_k_and_the_tables_are_checked(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    with pytest.raises(RunError, match="nobody to recommend to; name a table with --users"):
        write_lists(store, None, tmp_path / "lists")
    with pytest.raises(RunError, match="--k is 0, expected 1 to 10000"):
        write_lists(store, tmp_path / "viewers.csv", tmp_path / "lists", k=0)
    with pytest.raises(DataError, match=r"viewers\.csv: no such file"):
        write_lists(store, tmp_path / "viewers.csv", tmp_path / "lists")


def test_the_command_needs_no_tensorflow(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    viewers(10).write_parquet(tmp_path / "viewers.parquet")
    program = (
        "import sys\nfrom trainer.cli.commands import app\n"
        "app(sys.argv[1:], result_action='return_value', exit_on_error=False)\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    arguments = [
        "recommend",
        "--store",
        store.root,
        "--users",
        tmp_path / "viewers.parquet",
        "--out",
        tmp_path / "lists",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients'}"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1,000 rows for 10 users in 1 files" in done.stderr
