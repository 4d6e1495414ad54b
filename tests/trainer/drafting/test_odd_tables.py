"""Odd tables through `init` and the reader of a training: no row is lost without a count, or one sentence says why.

Further ones through all commands up to a promoted bundle with added items. ``ODD_TABLES`` and ``ODD_TRAININGS`` set the
numbers of examples; the nightly form has 2,000 of both.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import tempfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.trainer import world
from tests.trainer.cli.test_init import init
from trainer.data.dataset import load_dataset
from trainer.errors import TrainerError
from trainer.recipe import loading

ODD_TABLES, ODD_TRAININGS = (
    int(os.environ.get(name, few)) for name, few in (("ODD_TABLES", 100), ("ODD_TRAININGS", 3))
)
NAMES = st.sampled_from(
    [
        "user_id",
        "item",
        "Kunde",
        "Artikel-Nr",
        "order_id",
        "ts",
        "datum",
        "price",
        "Preis",
        "tags",
        "title",
        "rating",
        "x",
    ]
)
ids = st.integers(0, 9).map(str) | st.integers(0, 9).map("u{}".format)
cells = st.one_of(
    st.sampled_from(
        ["", " ", "\N{NO-BREAK SPACE}", "nan", "NULL", "-", "0", "007", "1.0", "1e5", "24,90", "1.024,90 €", "1,024"]
    ),
    st.sampled_from(
        ["2026-11-24", "2026-11-24 03:16:45 UTC", "24.11.2026 03:16", "1700000000", "1700000000000", "soon"]
    ),
    st.sampled_from(
        ["a|b", "a, b", "['a', 'b']", '["a"]', "[1", 'Screen 24" wide', '"open', "line\nbreak", "a;b", "\t", "é"]
    ),
    st.text(max_size=4),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the first two columns are mostly ids."""
    header = draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    columns = [
        ids if number < 2 else draw(st.sampled_from([ids, cells, st.just("7")])) for number in range(len(header))
    ]
    spoilt = draw(st.booleans())
    row = st.tuples(*[column | cells if spoilt else column for column in columns]).map(list)
    return header, draw(st.lists(row, min_size=1, max_size=40))


@st.composite
def trainable(draw: st.DrawFn, least: int = 0) -> tuple[list[str], list[list[str]]]:
    """Header and rows that mostly suffice for a training: ids of a user and an item, and `least` to three columns."""
    others = NAMES.filter(lambda name: name not in ("user_id", "item"))
    header = ["user_id", "item", *draw(st.lists(others, min_size=least, max_size=3, unique=True))]
    count = draw(st.integers(30, 90))
    columns = [[f"u{row % 9}" for row in range(count)], [f"i{row * 7 % 11}" for row in range(count)]]
    for _ in header[2:]:
        few = draw(st.lists(cells, min_size=1, max_size=6))
        columns.append([few[row * 5 % len(few)] for row in range(count)])
    return header, [list(row) for row in zip(*columns, strict=True)]


def write(path: Path, table: tuple[list[str], list[list[str]]], separator: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([table[0], *table[1]])
    return path


@hypothesis.settings(max_examples=ODD_TABLES)
@hypothesis.given(tables(), st.none() | tables(), st.sampled_from(",;\t|"))
def test_odd_tables_are_read_or_refused_in_one_sentence(
    events: tuple[list[str], list[list[str]]], items: tuple[list[str], list[list[str]]] | None, separator: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = {"interactions": events, **({} if items is None else {"items": items})}
        paths = {name: write(folder / f"{name}.csv", table, separator) for name, table in found.items()}
        try:
            init(folder, **paths)
            data = load_dataset(loading.load(str(folder / "mine.toml")), folder)
        except TrainerError as error:
            hypothesis.event("refused")
            if "\n" in str(error).strip():
                raise AssertionError("an error of several lines") from error
            return
        hypothesis.event("read")
        left_out = sum(
            int(count.replace(",", ""))
            for note in data.notes
            for count in re.findall(r"^([\d,]+) of [\d,]+ interactions (?:have no user|are left out: their)", note)
        )
        assert len(data.events) + left_out == sum(1 for row in events[1] if any(row))


@pytest.mark.timeout(60 * ODD_TRAININGS)
@pytest.mark.filterwarnings(world.KERAS_AND_NUMPY)
@hypothesis.settings(max_examples=ODD_TRAININGS, deadline=None, derandomize=True)
@hypothesis.given(trainable(), trainable(least=1), st.sampled_from(",;\t|"))
def test_odd_tables_are_trained_and_published_or_refused_in_one_sentence(
    events: tuple[list[str], list[list[str]]], items: tuple[list[str], list[list[str]]], separator: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        folder = Path(temporary)
        header, rows = items[0][1:], [row[1:] for row in items[1][:11]]
        found = {"interactions": events, "items": (header, rows)}
        paths = {name: write(folder / f"{name}.csv", table, separator) for name, table in found.items()}
        new = write(folder / "new.csv", (header, [[f"n{item}", *others] for item, *others in rows]), separator)
        steps = (
            ("train", "mine.toml", "--epochs", 1, "--run", "run", "--no-baselines"),
            ("evaluate", "run", "--baselines"),
            ("publish", "run", "--store", "store", "--promote", "--force"),
            ("add-items", "--store", "store", "--items", new),
        )
        try:
            init(folder, **paths)
            for step in steps:
                world.command(*step)
                hypothesis.event(step[0])
        except TrainerError as error:
            hypothesis.event("refused")
            if "\n" in str(error).strip():
                raise AssertionError("an error of several lines") from error
