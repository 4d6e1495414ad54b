"""The served log: parts that are whole, and losses that are counted and fail nobody."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from retrieval.serving.answering import served_log, served_parts
from retrieval.serving.answering.served_log import ServedLog, key_of
from retrieval.serving.answering.served_parts import Row, ServedTable
from tests.worlds import wait_for

TABLE = ServedTable("lists", {"key": "int", "time": "float", "name": "string", "ids": "strings", "scores": "floats"})


def losses() -> Counter:
    return Counter("lost", "Calls that were lost.", ["table", "reason"], registry=CollectorRegistry())


def lost(counter: Counter) -> dict[str, float]:
    samples = next(iter(counter.collect())).samples
    return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total") and s.value}


def row(number: int) -> Row:
    return (number, 0.5 + number, f"n{number}", ["a", f"i{number}"][: number % 3], [0.25])


def test_rows_of_many_calls_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    log = ServedLog(tmp_path, TABLE, 1 << 30, losses())
    for number in range(0, 3000, 2):
        log.record(lambda number=number: [row(number), row(number + 1)], 100)
    log.close()
    (part,) = (tmp_path / "lists").iterdir()
    frame = pl.read_parquet(part)
    assert frame.rows() == [row(number) for number in range(3000)]
    assert dict(frame.schema) == {
        "key": pl.Int64,
        "time": pl.Float64,
        "name": pl.String,
        "ids": pl.List(pl.String),
        "scores": pl.List(pl.Float32),
    }
    assert part.stat().st_mode & 0o777 == 0o600


def test_a_part_is_written_when_half_of_the_backlog_is_full_and_what_is_beyond_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_log, "BACKLOG_BYTES", 10_000)
    counter, go_on = losses(), threading.Event()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)

    def slow() -> list[Row]:
        assert go_on.wait(20)
        return [row(1)]

    log.record(slow, 6000)  # the writing thread takes it, and it still counts
    wait_for(lambda: not log._backlog, "the thread has taken the call")
    log.record(lambda: [row(2)], 3000)
    log.record(lambda: [row(3)], 3000)
    assert lost(counter) == {"backlog": 1}
    go_on.set()
    wait_for(lambda: list((tmp_path / "lists").glob("*.parquet")), "the part is there without the end of the log")
    log.close()
    assert pl.read_parquet(tmp_path / "lists")["key"].to_list() == [1, 2]
    log.record(lambda: [row(4)], 1)
    assert lost(counter) == {"backlog": 2}


def test_losses_fail_nobody(tmp_path: Path) -> None:
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 0, counter)
    log.record(lambda: [row(1)], 1)
    log.close()
    assert lost(counter) == {"size": 1}
    broken = ServedLog(tmp_path, TABLE, 1 << 30, counter)
    broken.record(lambda: [("no number", 1.0, "", [], [])], 1)
    broken.close()
    assert lost(counter) == {"size": 1, "writing": 1}
    assert list((tmp_path / "lists").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"served_log is .*file, where no folder can be made"):
        ServedLog(tmp_path / "file", TABLE, 1 << 30, counter)


def test_a_part_is_written_after_every_so_many_bytes_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_parts, "_PART_BYTES", 50_000)
    monkeypatch.setattr(served_parts, "_ROWS_AT_ONCE", 100)
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)
    log.record(lambda: map(row, range(1, 2500)), 100)
    log.record(lambda: [row(2500)], 100)
    log.close()
    parts = sorted((tmp_path / "lists").iterdir(), key=lambda part: part.stat().st_mtime_ns)
    heights = [pl.read_parquet(part).height for part in parts]
    assert len(heights) > 3
    assert len(set(heights[:-1])) == 1
    assert [number for part in parts for number in pl.read_parquet(part)["key"]] == list(range(1, 2501))
    assert lost(counter) == {}


def test_a_call_that_is_lost_takes_no_part_that_was_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_parts, "_PART_BYTES", 1000)
    monkeypatch.setattr(served_parts, "_ROWS_AT_ONCE", 10)
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)

    def broken() -> Iterator[Row]:
        yield from map(row, range(100))
        raise ValueError("broken")

    log.record(lambda: map(row, range(50)), 100)
    log.record(broken, 100)
    log.record(lambda: map(row, range(50)), 100)
    log.close()
    assert lost(counter) == {"writing": 1}
    assert pl.read_parquet(tmp_path / "lists").height >= 100


def test_what_is_not_written_in_time_at_the_end_is_counted_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_log, "CLOSE_S", 0.0)
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)
    for number in range(3):
        log.record(lambda number=number: [row(number)], 100)
    with capture_logs() as logged:
        log.close()
    assert lost(counter) == {"closing": 3}
    assert [(entry["reason"], entry["calls"]) for entry in logged] == [("closing", 1)]


def test_a_disk_that_hangs_does_not_keep_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_log, "BACKLOG_BYTES", 10_000)
    monkeypatch.setattr(served_log, "CLOSE_S", 0.1)
    monkeypatch.setattr(served_log, "_HANGS_S", 0.1)
    counter, go_on = losses(), threading.Event()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)

    def hang() -> list[Row]:
        assert go_on.wait(20)
        return []

    log.record(hang, 6000)
    wait_for(lambda: not log._backlog, "the thread has taken the call")
    log.record(lambda: [row(2)], 100)
    with capture_logs() as logged:
        log.close()
    assert lost(counter) == {"closing": 2}
    assert [(entry["reason"], entry["calls"]) for entry in logged] == [("closing", 2)]
    go_on.set()
    log._thread.join(20)


def test_a_full_disk_keeps_nothing_of_a_part(tmp_path: Path) -> None:
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)
    log.record(lambda: [row(number) for number in range(2000)], 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with capture_logs() as logged:
            log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lost(counter) == {"writing": 1}
    assert "too large" in logged[0]["why"]
    assert list((tmp_path / "lists").iterdir()) == []


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    counter = losses()
    log = ServedLog(tmp_path, TABLE, 1 << 30, counter)
    (tmp_path / "lists").rmdir()
    log.record(lambda: [row(1)], 100)
    log.close()
    assert pl.read_parquet(tmp_path / "lists")["key"].to_list() == [1]
    assert lost(counter) == {}


def test_what_is_not_whole_counts_and_is_removed_after_the_death_of_its_process(tmp_path: Path) -> None:
    counter, folder = losses(), tmp_path / "lists"
    folder.mkdir()
    fresh, old = folder / "part-1-a.tmp", folder / "part-0-b.tmp"
    for path in (fresh, old):
        path.write_bytes(bytes(600))
    os.utime(old, (0, 0))

    def write(number: int) -> None:
        log = ServedLog(tmp_path, TABLE, 1000, counter)
        log.record(lambda: [row(number)], 100)
        log.close()

    write(1)  # another process is at the fresh one
    assert lost(counter) == {}
    assert (fresh.exists(), old.exists()) == (True, False)
    write(2)
    assert lost(counter) == {"size": 1}


def test_a_key_is_that_of_the_values_as_float32() -> None:
    embedding = np.array([0.1, -0.7, 0.7], dtype=np.float32)
    assert key_of(embedding.tolist()) == key_of(embedding) == key_of([0.1, -0.7, 0.7])
    assert key_of(np.nextafter(embedding, np.float32(1.0))) != key_of(embedding)
