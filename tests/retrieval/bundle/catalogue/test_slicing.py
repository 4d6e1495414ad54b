"""Item tables cut into parts, and joined again."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.catalogue.slicing import bounds_of, cut, join
from tests.worlds import item_table


def test_parts_differ_by_one_item_at_most() -> None:
    assert bounds_of(10, 4) == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert bounds_of(3, 1) == [(0, 3)]


@pytest.mark.parametrize("part_count", [1, 3, 7])
def test_a_part_has_its_items_and_all_parts_joined_have_all(tmp_path: Path, part_count: int) -> None:
    whole = item_table(100)  # columns of every type, with missing values
    parts = [cut(whole, start, stop) for start, stop in bounds_of(100, part_count)]
    for number, part in enumerate(parts):
        part.write(tmp_path / f"{number}.npz")
    read = [ItemTable.read(tmp_path / f"{number}.npz", whole.attribute_types) for number in range(part_count)]
    row = 0
    for part in read:
        for own in range(len(part.ids)):
            assert part.ids[own] == f"i{row}"
            for name, column in part.attributes.items():
                assert column.at(own) == whole.attributes[name].at(row), (name, row)
            row += 1
    joined = join(read)
    assert list(joined.ids) == list(whole.ids)
    for name, column in joined.attributes.items():
        assert [column.at(row) for row in range(100)] == [whole.attributes[name].at(row) for row in range(100)], name


def test_a_part_has_no_strings_of_other_items() -> None:
    part = cut(item_table(100), 1, 3)
    assert list(part.attributes["title"].values) == ["Title 1", "Title 2"]
    assert list(part.attributes["genres"].values) == ["comedy", "drama"]
