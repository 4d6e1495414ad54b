"""Ids to leave out of which few are looked up leave out what they would if all were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ann_service import exclusions
from ann_service.exclusions import Exclusions, among, distinct
from ann_service.wire import read_request
from bundle.spans import Spans
from bundle.strings import Strings
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = Strings.of([f"i{row}" for row in range(300)])


def spans_of(ids: list[str]) -> Spans:
    """Returns them as they come off the wire, once each more than a thousand unknown ones."""
    unknown = [f"unknown-{number}" for number in range(1000)]
    request = pb.SearchItemsRequest(searches=[pb.Search(exclude_item_ids=[*ids, *unknown])])
    return read_request(request.SerializeToString()).left_out[0]


@pytest.mark.parametrize("bits", [16, 4, 1])  # the fewer, the more ids share a place with an item in question
@given(
    st.lists(st.integers(0, 320), max_size=40),
    st.lists(st.integers(0, 299), max_size=5),
    st.lists(st.integers(0, 299), max_size=60),
)
def test_leaves_out_what_is_asked_for_and_what_is_known(
    bits: int, asked: list[int], known: list[int], rows: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exclusions, "_BITS", bits)
        left_out = Exclusions(ITEMS, spans_of([f"i{number}" for number in asked]), np.array(known, dtype=np.int64))
        expected = {number for number in asked if number < 300} | set(known)
        assert left_out.contain(np.array(rows, dtype=np.int64)).tolist() == [row in expected for row in rows]
        # Asked about more often than there are ids.
        many = np.arange(1800) % 300
        assert left_out.contain(many).tolist() == [int(row) in expected for row in many]
        assert left_out.rows.tolist() == sorted(expected)
        assert len(left_out) == 1000 + len(asked) + len(known)


def test_looks_up_no_more_than_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[bytes] = []

    def find(self: Strings, encoded: list[bytes]) -> np.ndarray:
        looked_up.extend(encoded)
        return np.zeros(0, dtype=np.int64)

    left_out = Exclusions(ITEMS, spans_of(["i1", "i2", "i3"]), np.zeros(0, dtype=np.int64))
    monkeypatch.setattr(Strings, "find_encoded", find)
    left_out.contain(np.array([2, 7]))
    # Of 1,003 ids, 2 places of 65,536 are shared by chance with probability 0.03.
    assert b"i2" in looked_up
    assert len(looked_up) < 4


def test_rows_are_told_apart() -> None:
    assert distinct(np.array([5, -1, 3, 5, -1, 0])).tolist() == [0, 3, 5]
    assert among(np.array([4, 0, 9, 3]), np.array([0, 3, 5])).tolist() == [False, True, False, True]
    assert among(np.array([4, 0]), np.array([], dtype=np.int64)).tolist() == [False, False]
