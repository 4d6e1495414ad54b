"""What a run of `recommend` that goes on does not trust: damaged parts, tables written anew, and names of no folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrieval.store.folder_store import FolderStore
from tests.trainer.recommending.test_stopped_runs import stop_after_one
from tests.trainer.recommending.world import films, lists_of, viewers, write_lists
from tests.trainer.world import Recorded
from trainer.errors import RunError
from trainer.recommending import recommend as recommending
from trainer.recommending.hashed_table import HashedTable


@pytest.fixture
def stopped(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table of a run that stopped after parts 0 and 1 of 5."""
    films(store)
    viewers(20).write_parquet(tmp_path / "viewers.parquet")
    stop_after_one(store, tmp_path / "viewers.parquet", tmp_path / "lists", monkeypatch)
    return tmp_path / "viewers.parquet"


@pytest.mark.parametrize("damage", ["zeros", "cut", "no sum"])
def test_a_damaged_part_is_computed_again(store: FolderStore, stopped: Path, tmp_path: Path, damage: str) -> None:
    part = tmp_path / "lists.partial" / "parts" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    if damage == "zeros":  # the footer stays whole
        assert any(content[100:164])
        content[100:164] = bytes(64)
        part.write_bytes(content)
    elif damage == "cut":
        part.write_bytes(content[:200])
    else:
        (tmp_path / "lists.partial" / "sums" / "part-00001.parquet.sha256").unlink()
    kept = (tmp_path / "lists.partial" / "parts" / "part-00000.parquet").stat().st_ino
    told = Recorded()

    write_lists(store, stopped, tmp_path / "lists", told)

    assert "damaged, and computed again: part-00001.parquet." in told.notes
    assert "going on after 1 of 5 parts of a stopped run." in told.notes
    assert (tmp_path / "lists" / "part-00000.parquet").stat().st_ino == kept
    write_lists(store, stopped, tmp_path / "whole")
    assert lists_of(tmp_path / "lists") == lists_of(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [f"part-0000{n}.parquet" for n in range(5)]


@pytest.mark.parametrize(("name", "value"), [("program", "0.0.1"), ("users_a_part", 3)])
def test_parts_of_another_program_or_size_are_refused(
    store: FolderStore, stopped: Path, tmp_path: Path, name: str, value: Any
) -> None:
    run = tmp_path / "lists.partial" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), name: value}))
    with pytest.raises(RunError, match=f"holds parts of other lists: {name} was {value} and is "):
        write_lists(store, stopped, tmp_path / "lists")


def test_a_table_of_users_that_is_written_anew_meanwhile_is_refused(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(store)
    table = tmp_path / "viewers.parquet"
    viewers(20).write_parquet(table)
    monkeypatch.setattr(recommending, "_USERS_A_PART", 4)
    check = recommending.Users.check

    def swap(self: Any, notes: list[str]) -> None:
        check(self, notes)
        viewers(20, seed=2).write_parquet(table)

    with monkeypatch.context() as patched:
        patched.setattr(recommending.Users, "check", swap)
        with pytest.raises(RunError, match=r"viewers\.parquet was written anew while"):
            write_lists(store, table, tmp_path / "lists")
    assert not list((tmp_path / "lists.partial" / "parts").glob("*.parquet"))


def test_interactions_that_are_written_anew_while_they_are_read_are_refused(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(store)
    table = tmp_path / "events.csv"
    table.write_text("viewer,film,at\nv1,i1,1\nv1,i2,2\n")
    read = recommending.Histories.read

    def swap(*arguments: Any) -> Any:
        table.write_text("viewer,film,at\nv1,i1,1\nv1,i3,2\n")
        return read(*arguments)

    monkeypatch.setattr(recommending.Histories, "read", swap)
    with pytest.raises(RunError, match=r"events\.csv was written anew while"):
        write_lists(store, None, tmp_path / "lists", interactions=table)


def test_a_table_that_is_only_touched_is_the_same(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    table = HashedTable(tmp_path / "a.parquet")
    os.utime(table.path, (1, 1))
    table.check()
    pl.DataFrame({"a": [2]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(RunError, match="written anew"):
        table.check()


@pytest.mark.parametrize("out", [".", "/", "", "lists/.."])
def test_an_out_that_names_no_new_folder_is_refused_before_the_work(
    store: FolderStore, tmp_path: Path, out: str
) -> None:
    films(store)
    with pytest.raises(RunError, match=r"^--out is '.*', which names no new folder; name one, such as lists\.parquet$"):
        write_lists(store, tmp_path / "no table.csv", Path(out))


def test_a_link_to_nothing_is_refused_before_the_work(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    (tmp_path / "lists").symlink_to(tmp_path / "nothing")
    with pytest.raises(RunError, match="lists is a link to nothing; remove it, or name another folder with --out"):
        write_lists(store, tmp_path / "no table.csv", tmp_path / "lists")
