"""Ids to leave out that are cut off the wire: the request means what it would if protobuf had parsed all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ann_service import wire
from ann_service.wire import read_request
from two_tower.ann.v1 import ann_service_pb2 as pb

Meant = tuple[pb.SearchItemsRequest, list[list[str]]]


@pytest.fixture(autouse=True, scope="module")
def _cut_few() -> Iterator[None]:
    """Lets a few bytes be worth it, so that small requests show everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_WORTH_CUTTING", 8)
        yield


def meant(message: pb.SearchItemsRequest, more: dict[int, list[str]]) -> Meant:
    """Returns the request without ids to leave out, and those, sorted: their order means nothing."""
    ids = [sorted([*search.exclude_item_ids, *more.get(n, [])]) for n, search in enumerate(message.searches)]
    rest = pb.SearchItemsRequest.FromString(message.SerializeToString())
    for search in rest.searches:
        del search.exclude_item_ids[:]
    return rest, ids


def expected(data: bytes) -> Meant | None:
    try:
        return meant(pb.SearchItemsRequest.FromString(data), {})
    except DecodeError:
        return None


def found(data: bytes) -> Meant | None:
    try:
        request = read_request(data)
    except DecodeError:
        return None
    left_out = {
        number: [spans.utf8[start:end].tobytes().decode() for start, end in zip(spans.starts, spans.ends, strict=True)]
        for number, spans in request.left_out.items()
    }
    return meant(request.message, left_out)


def test_cuts_ids_out_and_leaves_the_rest() -> None:
    search = pb.Search(k=3, exclude_item_ids=["first", "zweiter ä", "", "first"], min_score=0.5)
    plain = pb.Search(k=4, embedding=pb.Embedding(values=[1.0, 2.0]))
    request = read_request(pb.SearchItemsRequest(model_version="m", searches=[plain, search]).SerializeToString())
    assert request.message == pb.SearchItemsRequest(model_version="m", searches=[plain, pb.Search(k=3, min_score=0.5)])
    [(number, spans)] = request.left_out.items()
    assert number == 1
    # "ä" takes two bytes; a head of two comes before each, and the padding of 128 after the last.
    assert spans.starts.tolist() == [2, 9, 21, 23]
    assert spans.ends.tolist() == [7, 19, 21, 28]
    assert spans.utf8.tobytes() == b"*\x05first*\x0azweiter \xc3\xa4*\x00*\x05first" + bytes(128)


@pytest.mark.parametrize(
    ("odd", "cut"), [("with * in it", 4), ("x" * 42, 4), ("x" * 127, 7), ("x" * 128, 3), ("x" * 300, 3)]
)
def test_an_id_that_is_not_plain_to_see_ends_the_cut_and_is_left_out_all_the_same(odd: str, cut: int) -> None:
    ids = ["one", "two", "three", odd, "four", "five", "six"]
    data = pb.SearchItemsRequest(searches=[pb.Search(exclude_item_ids=ids)]).SerializeToString()
    assert found(data) == (pb.SearchItemsRequest(searches=[pb.Search()]), [sorted(ids)])
    assert len(read_request(data).left_out[0]) == cut


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_an_id_that_is_not_utf8_is_refused(bad: bytes) -> None:
    field = b"*\x05valid" * 3 + bytes((0x2A, len(bad))) + bad + b"*\x02\xa4\x41" + b"*\x05valid"
    data = bytes((0x1A, len(field))) + field
    with pytest.raises(DecodeError):
        read_request(data)
    # Halves of a character that follow one another are not a character.
    with pytest.raises(DecodeError):
        read_request(b"\x1a\x0e*\x05valid*\x01\xc3*\x01\xa4")


def delimited(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + wire.varint(len(content)) + content


# Short ones, those that hold the byte of the tag or are as long, and those whose size takes two bytes.
ids = st.text("a*\x00ä", max_size=5).map(str.encode) | st.binary(max_size=3) | st.integers(40, 44).map(bytes)
ids |= st.sampled_from([127, 128, 129]).map(lambda size: b"i" * size)
excluded = ids.map(lambda value: delimited(0x2A, value))
others = st.one_of(
    st.integers(-3, 300).map(lambda k: pb.Search(k=k).SerializeToString()),
    st.lists(st.floats(width=32), max_size=3).map(
        lambda values: pb.Search(embedding=pb.Embedding(values=values)).SerializeToString()
    ),
    st.just(b"\xa2\x01\x02\x0a\x00"),  # a tag of two bytes, of a field that is no longer there
    st.text(max_size=3).map(lambda text: pb.Search(text=text, min_score=1.0).SerializeToString()),
    st.binary(max_size=4),
    st.sampled_from([b"\x2b\x2c", b"\x28\x01", b"\x2d1234", b"\x2912345678", b"\x2a\x81\x00x", b"\x2a", b"\x2a\x7f"]),
)
searches = st.lists(st.lists(excluded, max_size=9).map(b"".join) | others, max_size=5).map(b"".join)
fields = st.one_of(
    searches.map(lambda content: delimited(0x1A, content)),
    searches.map(lambda content: b"\x1a" + bytes((len(content) & 0x7F | 0x80, 0x80 | len(content) >> 7, 0)) + content),
    st.text(max_size=3).map(lambda version: pb.SearchItemsRequest(model_version=version).SerializeToString()),
    st.binary(max_size=3),
)


@given(st.lists(fields, max_size=4).map(b"".join), st.integers(0, 3))
@example(b"\x1a\x83\x80\x00*\x01a" * 4, 0)
@example(b"\x12" + b"\xff" * 30, 0)
def test_any_bytes_mean_what_they_do_to_protobuf(data: bytes, missing: int) -> None:
    data = data[: len(data) - missing]
    want = expected(data)
    got = found(data)
    assert (got is None) == (want is None)
    if got and want:
        # By their bytes, since NaN does not equal itself.
        assert (got[0].SerializeToString(), got[1]) == (want[0].SerializeToString(), want[1])


@given(st.data())
def test_any_change_of_a_request_means_what_it_does_to_protobuf(data: st.DataObject) -> None:
    search = pb.Search(k=5, exclude_item_ids=[f"item-{n}" for n in range(12)], min_score=0.25, text="t")
    request = pb.SearchItemsRequest(model_version="m", searches=[search, search])
    changed = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    want, got = expected(bytes(changed)), found(bytes(changed))
    assert (got is None) == (want is None)
    if got and want:
        assert (got[0].SerializeToString(), got[1]) == (want[0].SerializeToString(), want[1])


def test_sizes_are_written_as_protobuf_does() -> None:
    # 300 = 0b10_0101100: the low seven bits with the top bit set, 0xAC, then 0b10.
    assert [wire.varint(value) for value in (0, 127, 128, 300)] == [b"\x00", b"\x7f", b"\x80\x01", b"\xac\x02"]
    # 200 ids of three bytes, head and all, 600 in all: cut out, what is left is a search of no bytes.
    data = pb.SearchItemsRequest(searches=[pb.Search(exclude_item_ids=["x"] * 200)]).SerializeToString()
    assert data[:3] == b"\x1a\xd8\x04"
    request = read_request(data)
    assert request.message.SerializeToString() == b"\x1a\x00"
    assert len(request.left_out[0]) == 200


def test_what_would_take_long_to_look_through_is_left_to_protobuf() -> None:
    cut = pb.SearchItemsRequest(searches=[pb.Search(exclude_item_ids=["id"] * 9)]).SerializeToString()
    assert list(read_request(b"\x1a\x00" * 1999 + cut).left_out) == [1999]
    assert read_request(b"\x1a\x00" * 2000 + cut).left_out == {}
    for fields, left_out in ((10, [0]), (11, [])):
        search = b"\x18\x05" * fields + b"*\x02id" * 9  # `k` again and again, of which the last counts
        assert list(read_request(delimited(0x1A, search)).left_out) == left_out
    stars = pb.Search(exclude_item_ids=["id", "*" * 200_001])
    assert read_request(pb.SearchItemsRequest(searches=[stars]).SerializeToString()).left_out == {}


def test_small_requests_are_left_to_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_WORTH_CUTTING", 601)
    search = pb.Search(exclude_item_ids=["x"] * 200)
    request = read_request(pb.SearchItemsRequest(searches=[search]).SerializeToString())
    assert request.left_out == {}
    assert request.message.searches[0] == search
