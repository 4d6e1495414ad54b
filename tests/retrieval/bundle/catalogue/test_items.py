"""The item table on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
items = st.lists(
    st.tuples(
        texts,
        st.none() | texts,
        st.lists(texts, max_size=3),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
    ),
    max_size=8,
    unique_by=lambda item: item[0],
)


@given(items)
def test_item_table_survives_the_disk(rows: list[tuple[Any, ...]]) -> None:
    ids, names, tags, years, prices = ([row[n] for row in rows] for n in range(5))
    table = ItemTable.of(
        tuple(ids),
        {
            "a/b ü": StringColumn.of(names),
            "tags": StringListColumn.of(tags),
            "year": IntColumn.of(years),
            "price": FloatColumn.of(prices),
        },
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "items.npz"
        table.write(path)
        read = ItemTable.read(path, table.attribute_types)
    assert read.ids == tuple(ids)
    assert read.rows == {item_id: row for row, item_id in enumerate(ids)}
    for row in range(len(rows)):
        values = [read.attributes[name].at(row) for name in ("a/b ü", "tags", "year", "price")]
        assert values == [names[row], tuple(tags[row]) or None, years[row], prices[row]]


def test_table_that_lacks_a_column_or_holds_an_id_twice_is_refused(tmp_path: Path) -> None:
    ItemTable.of(("a", "b"), {"n": IntColumn.of([1, 2])}).write(tmp_path / "good.npz")
    with pytest.raises(ValueError, match="lacks"):
        ItemTable.read(tmp_path / "good.npz", {"n": "int", "m": "int"})
    with pytest.raises(ValueError, match="lacks"):
        ItemTable.read(tmp_path / "good.npz", {"n": "float"})
    with pytest.raises(ValueError, match="expected one of"):
        ItemTable.read(tmp_path / "good.npz", {"n": "complex"})
    ItemTable.of(("a", "a"), {}).write(tmp_path / "twice.npz")
    with pytest.raises(ValueError, match="twice"):
        ItemTable.read(tmp_path / "twice.npz", {})
    ItemTable.of(("a", "b"), {"n": FloatColumn(np.zeros(3))}).write(tmp_path / "long.npz")
    with pytest.raises(ValueError, match="3 rows, expected 2"):
        ItemTable.read(tmp_path / "long.npz", {"n": "float"})
