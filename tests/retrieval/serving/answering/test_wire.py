"""Reading the fields of a serialized message without decoding it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import fields
from two_tower.ann.v1 import ann_service_pb2 as pb

SEARCH = pb.Search(
    embedding=pb.Embedding(values=[0.5, -1.0]), k=300, exclude_item_ids=["a", "", "é" * 200], min_score=0.25, exact=True
)


def test_lists_the_fields_with_their_contents() -> None:
    body = SEARCH.SerializeToString()
    seen = [(number, body[start:end]) for number, start, end in fields(body)]
    assert [number for number, _ in seen] == [1, 3, 5, 5, 5, 6, 7]
    assert [content for number, content in seen if number == 5] == [b"a", b"", ("é" * 200).encode()]
    assert pb.Embedding.FromString(seen[0][1]) == SEARCH.embedding


def test_reads_a_message_within_another() -> None:
    body = pb.SearchItemsRequest(model_version="m", searches=[SEARCH, pb.Search(k=1)]).SerializeToString()
    searches = [(start, end) for number, start, end in fields(body) if number == 3]
    assert [len(list(fields(body, *search))) for search in searches] == [7, 1]


@given(st.binary(max_size=60))
def test_any_bytes_end_or_are_refused(body: bytes) -> None:
    try:
        positions = [position for _, start, end in fields(body) for position in (start, end)]
    except InvalidRequest:
        return
    assert positions == sorted(positions)
    assert all(0 <= position <= len(body) for position in positions)


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05ab", b"\x80" * 20, b"\x0b", b"\x09abc"])
def test_a_malformed_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a serialized message"):
        list(fields(body))
