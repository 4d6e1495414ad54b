"""The served log: parts that are whole, and losses that are counted and fail nobody."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from prometheus_client import CollectorRegistry, Counter

from retrieval.serving.answering import served_log
from retrieval.serving.answering.served_log import Row, ServedLog, ServedTable, key_of
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


def test_a_key_is_that_of_the_values_as_float32() -> None:
    embedding = np.array([0.1, -0.7, 0.7], dtype=np.float32)
    assert key_of(embedding.tolist()) == key_of(embedding) == key_of([0.1, -0.7, 0.7])
    assert key_of(np.nextafter(embedding, np.float32(1.0))) != key_of(embedding)
