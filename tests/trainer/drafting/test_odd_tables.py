"""Odd tables through `init` and the reader of a training: no row is lost without a count, or one sentence says why."""

from __future__ import annotations

import csv
import re
import tempfile
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from tests.trainer.cli.test_init import init
from trainer.data.dataset import load_dataset
from trainer.errors import TrainerError
from trainer.recipe import loading

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


@hypothesis.settings(max_examples=100)
@hypothesis.given(tables(), st.none() | tables(), st.sampled_from(",;\t|"))
def test_odd_tables_are_read_or_refused_in_one_sentence(
    events: tuple[list[str], list[list[str]]], items: tuple[list[str], list[list[str]]] | None, separator: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = {}
        for name, table in (("interactions", events), ("items", items)):
            if table is not None:
                paths[name] = folder / f"{name}.csv"
                with paths[name].open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file, delimiter=separator).writerows([table[0], *table[1]])
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
