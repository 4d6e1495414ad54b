"""Limits on numbers and sizes of a serialized SearchItemsRequest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ann_service.decoding import MAX_FIELDS, MAX_OTHER_BYTES, decode_request
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb


def decoded(*searches: pb.Search) -> Sequence[pb.Search]:
    return run_to_end(decode_request(pb.SearchItemsRequest(searches=searches).SerializeToString(), 100))[1]


def text_filter(size: int) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute="x" * size))


@pytest.mark.parametrize("count", [1, 100])
def test_a_request_within_the_limits_is_decoded(count: int) -> None:
    searches = [pb.Search(embedding=pb.Embedding(values=[0.5] * 2000), k=5, exclude_item_ids=["a"] * 1000)] * count
    assert list(decoded(*searches)) == searches


def test_exclusions_of_all_searches_together_are_limited() -> None:
    half = pb.Search(exclude_item_ids=[""] * (MAX_FIELDS // 2))
    assert len(decoded(half, half)) == 2
    with pytest.raises(InvalidRequest, match=r"searches\[2\].exclude_item_ids: more than 150000 fields"):
        decoded(half, half, pb.Search(k=1))


def test_filters_of_all_searches_together_are_limited() -> None:
    half = pb.Search(filter=text_filter(MAX_OTHER_BYTES // 2 - 100))
    assert len(decoded(half, half)) == 2
    with pytest.raises(InvalidRequest, match=r"searches\[2\].filter: more than 1048576 bytes"):
        decoded(half, half, half)


def test_items_to_be_similar_to_are_limited_by_their_size() -> None:
    search = pb.Search(similar_to=pb.ItemIds(values=[""] * MAX_OTHER_BYTES))
    with pytest.raises(InvalidRequest, match="more than 1048576 bytes"):
        decoded(search)


def test_unknown_fields_count() -> None:
    search = pb.Search.FromString(b"\x78\x00" * (MAX_FIELDS + 1))
    with pytest.raises(InvalidRequest, match="more than 150000 fields"):
        decoded(search)
