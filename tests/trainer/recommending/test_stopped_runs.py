"""Runs of `recommend` that are stopped: they go on where they stopped, and never add to other lists."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import ROOT
from tests.trainer.recommending.world import films, lists_of, viewers, wanted, write_lists
from tests.trainer.world import Recorded, command
from trainer.errors import DataError, RunError
from trainer.recommending import recommend as recommending
from trainer.recommending.recommend import recommend


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(store)
    viewers(300).write_parquet(tmp_path / "viewers.parquet")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients'}"}
    # A list of 2,900 of 3,000 items for 300 users: the process makes parts of 3 users, slowly enough to be killed.
    program = (
        "from trainer.recommending import recommend; recommend._USERS_A_PART = 3\n"
        "from trainer.__main__ import main; main()"
    )
    table = tmp_path / "viewers.parquet"
    arguments = ["recommend", "--store", store.root, "--users", table, "--k", 2900, "--out", tmp_path / "lists"]
    parts = tmp_path / "lists.partial" / "parts"
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 100
        while len(list(parts.glob("*.parquet"))) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    kept = {path.name: path.stat().st_ino for path in parts.glob("*.parquet")}
    assert 2 <= len(kept) < 100
    assert not (tmp_path / "lists").exists()

    monkeypatch.setattr(recommending, "_USERS_A_PART", 3)
    told = Recorded()
    result = write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists", told, k=2900)
    assert f"going on after {len(kept)} of 100 parts of a stopped run." in told.notes
    assert kept.items() <= {path.name: path.stat().st_ino for path in (tmp_path / "lists").iterdir()}.items()
    assert len(list((tmp_path / "lists").iterdir())) == result["parts"] == 100
    assert not (tmp_path / "lists.partial").exists()
    whole = write_lists(store, tmp_path / "viewers.parquet", tmp_path / "whole", k=2900)
    assert lists_of(tmp_path / "lists") == lists_of(tmp_path / "whole")
    assert {**result, "out": ""} == {**whole, "out": ""}


def test_after_ctrl_c_it_says_how_to_go_on(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    films(store)
    viewers(4).write_parquet(tmp_path / "viewers.parquet")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recommending.Parts, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        command(
            "recommend", "--store", store.root, "--users", tmp_path / "viewers.parquet", "--out", tmp_path / "lists"
        )
    assert "stopped; the same command goes on after the parts that are complete\n" in capsys.readouterr().err


def stop_after_one(store: FolderStore, users: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Leaves a run behind that stopped after its first parts."""
    monkeypatch.setattr(recommending, "_USERS_A_PART", 4)
    write = recommending.Parts.write

    def stop(self: Any, number: int, *rest: Any) -> None:
        if number > 1:
            raise RunError("stopped")
        write(self, number, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(recommending.Parts, "write", stop)
        with pytest.raises(RunError, match="stopped"):
            write_lists(store, users, out, **fields)


def test_parts_of_other_lists_are_refused(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = films(store)
    table, out = tmp_path / "viewers.parquet", tmp_path / "lists"
    viewers(40).write_parquet(table)
    stop_after_one(store, table, out, monkeypatch)
    with pytest.raises(
        RunError, match=r"lists.partial holds parts of other lists: k was 20 and is 30; repeats was False"
    ):
        write_lists(store, table, out, k=30, repeats=True)
    second = films(store, seed=2)
    with pytest.raises(RunError, match=f"bundle was {first} and is {second}"):
        write_lists(store, table, out)
    viewers(40, seed=2).write_parquet(table)
    with pytest.raises(RunError, match=r"users was sha256 [0-9a-f]{64} and is sha256 [0-9a-f]{64}"):
        recommend(store, first, wanted(table), out)
    viewers(40).write_parquet(table)
    assert recommend(store, first, wanted(table), out)["users"] == 40
    with pytest.raises(RunError, match="lists exists; remove it, or name another folder with --out"):
        recommend(store, first, wanted(table), out)


def test_a_run_that_made_no_list_does_not_stand_in_the_way_of_the_corrected_one(
    store: FolderStore, tmp_path: Path
) -> None:
    films(store)
    table, out = tmp_path / "viewers.parquet", tmp_path / "lists"
    pl.concat([viewers(4), viewers(1)]).write_parquet(table)
    with pytest.raises(DataError, match="is in several rows"):
        write_lists(store, table, out, k=30)
    (tmp_path / "lists.partial" / "parts" / "part-00007.tmp").write_bytes(b"half a part")
    viewers(4).write_parquet(table)
    assert write_lists(store, table, out, k=20)["users"] == 4
    assert [path.name for path in out.iterdir()] == ["part-00000.parquet"]


def test_a_run_that_goes_on_keeps_the_time_of_its_requests(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(store)
    viewers(40).write_parquet(tmp_path / "viewers.parquet")
    stop_after_one(store, tmp_path / "viewers.parquet", tmp_path / "lists", monkeypatch, at_s=1.7e9)
    with pytest.raises(RunError, match=r"at was 1700000000\.0 and is 1800000000\.0"):
        write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists", at_s=1.8e9, is_at_told=True)
    write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists", at_s=1.8e9)
    metadata = [json.loads(pl.read_parquet_metadata(path)["two_tower"]) for path in (tmp_path / "lists").iterdir()]
    assert {part["at"] for part in metadata} == {1.7e9}


def test_two_runs_do_not_write_one_result(store: FolderStore, tmp_path: Path) -> None:
    films(store)
    viewers(10).write_parquet(tmp_path / "viewers.parquet")
    with (
        recommending.claimed_parts(tmp_path / "lists", {"k": 20}, {}),
        pytest.raises(RunError, match=r"another run writes to .*lists\.partial; name another folder with --out"),
    ):
        write_lists(store, tmp_path / "viewers.parquet", tmp_path / "lists")
