"""Decoding large requests part by part, after limits were checked on their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import MAX_OTHER_FIELDS, Undecodable, decode, decode_parts, fields
from retrieval.steps import Steps, run_to_end
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


def accept(path: str, body: bytes, start: int, end: int) -> Steps[None]:
    yield from ()


def parts_of(body: bytes, max_parts: int = 1000) -> Steps[tuple[pb.SearchItemsRequest, list[pb.Search]]]:
    return decode_parts(body, pb.SearchItemsRequest, pb.Search, "searches", max_parts, accept)


@given(st.lists(st.sampled_from([SEARCH, pb.Search(), pb.Search(k=3)]), max_size=5), st.text(max_size=3))
def test_parts_are_those_of_the_whole_message(searches: list[pb.Search], version: str) -> None:
    whole = pb.SearchItemsRequest(searches=searches, model_version=version, bundle_version="b")
    request, parts = run_to_end(parts_of(whole.SerializeToString()))
    assert parts == searches
    assert request == pb.SearchItemsRequest(model_version=version, bundle_version="b")


def test_decoding_pauses_and_hands_each_part_to_the_check() -> None:
    body = pb.SearchItemsRequest(searches=[SEARCH] * 1000).SerializeToString()
    seen: list[str] = []

    def check(path: str, body: bytes, start: int, end: int) -> Steps[None]:
        assert pb.Search.FromString(body[start:end]) == SEARCH
        seen.append(path)
        yield from ()

    steps = decode_parts(body, pb.SearchItemsRequest, pb.Search, "searches", 1000, check)
    assert sum(1 for _ in steps) >= len(body) // 100_000
    assert seen == [f"searches[{number}]" for number in range(1000)]


def test_too_many_parts_or_other_fields_are_refused_before_they_are_decoded() -> None:
    body = pb.SearchItemsRequest(searches=[SEARCH] * 3).SerializeToString()
    with pytest.raises(InvalidRequest, match="searches: more than 2 searches"):
        run_to_end(parts_of(body + b"\xff", 2))
    unknown = b"\x78\x00"
    assert run_to_end(parts_of(body + unknown * MAX_OTHER_FIELDS))[1] == [SEARCH] * 3
    with pytest.raises(InvalidRequest, match=f"more than {MAX_OTHER_FIELDS} fields beside searches"):
        run_to_end(parts_of(body + unknown * (MAX_OTHER_FIELDS + 1)))


@pytest.mark.parametrize("part", [b"\x0a\xff", b"\x0a\x05ab", b"\x2a\x01\xff"])
def test_a_part_that_is_no_message_is_refused(part: bytes) -> None:
    body = b"\x1a" + bytes([len(part)]) + part
    with pytest.raises(Undecodable, match=r"not a serialized two_tower.ann.v1.Search;"):
        run_to_end(parts_of(body))
    with pytest.raises(Undecodable, match=r"not a serialized two_tower.ann.v1.SearchItemsRequest;"):
        decode(body, pb.SearchItemsRequest)
