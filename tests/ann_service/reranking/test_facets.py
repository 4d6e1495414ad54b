"""Counting the values of an attribute over rows, against a count in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ann_service.plan import Facet
from ann_service.reranking.facets import count
from retrieval.bundle.catalogue.items import COLUMN_TYPES, StringColumn, StringListColumn
from retrieval.steps import run_to_end
from tests.ann_service.reranking.counted_codes import counted_lists, reads_of
from two_tower.ann.v1 import ann_service_pb2 as pb

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.one_of(st.none(), st.sampled_from(["", "a", "ab", "b", "é", "\U0001f600", "\uffff"])),
    "int": st.one_of(st.none(), st.sampled_from([0, -1, 5, 2**62])),
    "float": st.one_of(st.none(), st.sampled_from([0.0, -1.5, 2.25])),
    "string_list": st.lists(st.sampled_from(["x", "y", "z"]), max_size=4),
}


def facet_of(kind: str, values: Sequence[Any], rows: Sequence[int], limit: int) -> pb.FacetCounts:
    column = COLUMN_TYPES[kind].of(values)
    return run_to_end(count(column, np.array(rows, dtype=np.int64), Facet("c", limit)))


@pytest.mark.parametrize("kind", _VALUES)
@given(data=st.data())
def test_counts_as_a_plain_count_does(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(_VALUES[kind], min_size=1, max_size=20))
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True))
    limit = data.draw(st.integers(1, 8))
    held = [set(values[row] or ()) if kind == "string_list" else {values[row]} - {None} for row in rows]
    counts = Counter(value for own in held for value in own)
    expected = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].encode() if kind[0] == "s" else pair[0]))
    actual = facet_of(kind, values, rows, limit)
    assert [
        (getattr(each.value, each.value.WhichOneof("kind") or ""), each.count) for each in actual.values
    ] == expected[:limit]
    assert actual.distinct_count == len(counts)
    assert actual.missing_count == sum(not own for own in held)
    fields = {each.value.WhichOneof("kind") for each in actual.values}
    assert fields <= {{"int": "int_value", "float": "float_value"}.get(kind, "string_value")}


def test_ties_beyond_the_limit_are_broken_by_value_not_by_position() -> None:
    actual = facet_of("string", ["d", "c", "b", "a", "d"], [0, 1, 2, 3, 4], 2)
    assert [(each.value.string_value, each.count) for each in actual.values] == [("d", 2), ("a", 1)]


def test_pauses_while_it_reads_many_strings() -> None:
    column = StringColumn.of([f"title {row}" for row in range(5000)])
    assert sum(1 for _ in count(column, np.arange(5000), Facet("c", 10))) >= 5


def test_reads_lists_in_parts_of_bounded_size() -> None:
    column = counted_lists([[f"tag {(row * 7 + n) % 3000}" for n in range(30)] for row in range(4000)])
    steps = reads_of(count(column, np.arange(4000), Facet("c", 10)), [column])
    assert steps.total == 4000 * 30  # each value is read once
    assert 1000 <= steps.largest <= 10_000


def test_the_counts_of_parts_add_up() -> None:
    # Value n is in rows n, n + 1000, ...: 12 rows each, except that values 0 to 499 are in 13.
    lists = [[f"v{row % 1000:03}", "all", "all"] for row in range(12_500)]
    actual = run_to_end(count(StringListColumn.of(lists), np.arange(12_500), Facet("c", 3)))
    assert [(each.value.string_value, each.count) for each in actual.values] == [
        ("all", 12_500),
        ("v000", 13),
        ("v001", 13),
    ]
    assert (actual.distinct_count, actual.missing_count) == (1001, 0)
