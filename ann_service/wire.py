"""Requests off the wire: thousands of ids to leave out stay bytes, since an object for each costs more than a search.

```
SearchItemsRequest   … │ searches, size │ Search                                                │ …
                                         … │ 2A size id │ 2A size id │ 2A size id │ … min_score …
                                           └──────── cut out, as spans ─────────┘
```

Whatever is not plain to see is left to protobuf, so that every request means what it would otherwise, and is refused
where it would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bundle.spans import PADDING, Spans
from two_tower.ann.v1 import ann_service_pb2 as pb

_SEARCHES, _EXCLUDED = 0x1A, 0x2A
"""Tags of fields on the wire: SearchItemsRequest.searches, Search.exclude_item_ids."""

_HEAD = 2
_LONGEST_ID = 127
"""The head of an id is its tag and its size, which takes one byte up to here."""

_LONGEST_SIZE = 4
"""Bytes of a size: protobuf takes messages of up to 2 GiB, gRPC here a few MiB."""

_MOST_FIELDS = 2000
_MOST_BEFORE = 10
_MOST_HEADS = 200_000
"""Of a request, of a search before its ids, and of bytes that may be the tags of these: what has more is left to
protobuf, which gets through any bytes in far less time."""

_LOOKED_AT = 32
"""Ids at the start of a run."""

_WORTH_CUTTING = 4096
"""A search of fewer bytes is parsed by protobuf in less time."""


class Request(NamedTuple):
    """A request, of which some ids were not made objects.

    Attributes:
        message: the rest of it.
        left_out: by number of the search, ids that are missing from its `exclude_item_ids`.
    """

    message: pb.SearchItemsRequest
    left_out: Mapping[int, Spans]


def read_request(data: bytes) -> Request:
    """Returns the request that `data` is.

    Raises:
        google.protobuf.message.DecodeError: where protobuf would.
    """
    if len(data) >= _WORTH_CUTTING:
        try:
            rest, left_out = _cut(data)
        except (IndexError, ValueError):
            pass
        else:
            return Request(pb.SearchItemsRequest.FromString(rest), left_out)
    return Request(pb.SearchItemsRequest.FromString(data), {})


def varint(value: int) -> bytes:
    """Returns a size on the wire: seven bits a byte, the lowest first, the top bit set but in the last."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _cut(data: bytes) -> tuple[bytes, dict[int, Spans]]:
    """Returns the request without ids to leave out that follow one another, and those by number of the search.

    Raises:
        IndexError, ValueError: it is not plain to see what is what.
    """
    parts: list[bytes] = []
    left_out: dict[int, Spans] = {}
    at = copied = number = fields = 0
    while at < len(data):
        head, fields = at, fields + 1
        if fields > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        start, at = _content(data, head, len(data))
        if data[head] != _SEARCHES:
            continue
        if at - start >= _WORTH_CUTTING and (found := _excluded(data, start, at)):
            first, last, left_out[number] = found
            parts += data[copied:head], bytes((_SEARCHES,)), varint(at - start - (last - first)), data[start:first]
            copied = last
        number += 1
    return b"".join((*parts, data[copied:])), left_out


def _excluded(data: bytes, at: int, end: int) -> tuple[int, int, Spans] | None:
    """Returns where ids to leave out start and end in the search from `at` to `end`, and the ids; None: too few.

    Of those that follow one another; an id that holds the byte of the tag, or has as many bytes, ends them.
    """
    for _ in range(_MOST_BEFORE):
        if at == end or data[at] == _EXCLUDED:
            break
        _, at = _content(data, at, end)
    if end - at < _WORTH_CUTTING or not _begins_a_run(data, at, end):
        return None
    search = np.frombuffer(data, dtype=np.uint8, count=end - at, offset=at)
    alike = search[:-1] == _EXCLUDED
    if np.count_nonzero(alike) > _MOST_HEADS:
        return None
    heads = np.flatnonzero(alike)  # [m], those of ids and whatever looks like one
    sizes = search[heads + 1].astype(np.int64)
    ends = heads + _HEAD + sizes
    plain = (sizes <= _LONGEST_ID) & (ends <= len(search))
    plain[1:] &= heads[1:] == ends[:-1]
    count = len(plain) if plain.all() else int(plain.argmin())
    if not count or (last := int(ends[count - 1])) < _WORTH_CUTTING:
        return None
    cut = data[at : at + last]
    # What stands between ids is ASCII, so all are valid UTF-8 where each is.
    cut.decode()
    utf8 = np.frombuffer(cut + bytes(PADDING), dtype=np.uint8)
    return at, at + last, Spans(utf8, heads[:count] + _HEAD, ends[:count])


def _begins_a_run(data: bytes, at: int, end: int) -> bool:
    """Returns whether the first few fields, or enough bytes, are ids of usual sizes.

    Anything else would be found out after arrays were made of all bytes of the search.
    """
    start = at
    for _ in range(_LOOKED_AT):
        if at + _HEAD > end or data[at] != _EXCLUDED or data[at + 1] > _LONGEST_ID:
            return at - start >= _WORTH_CUTTING
        at += _HEAD + data[at + 1]
    return True


def _content(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Returns where the content of the field at `at` starts and ends.

    Raises:
        IndexError, ValueError: it is not of the kinds and sizes that are usual here, or ends behind `end`.
    """
    tag, start = data[at], at + 1
    match tag & 0x07 if tag < 0x80 else None:
        case 0:
            _, start = _read_varint(data, start)
            size = 0
        case 1:
            size = 8
        case 2:
            size, start = _read_varint(data, start)
        case 5:
            size = 4
        case _:
            raise ValueError(f"a tag that starts with byte {tag}")
    if start + size > end:
        raise ValueError("a field that ends behind its message")
    return start, start + size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number at `at`, and where it ends.

    Raises:
        IndexError, ValueError: it does not end, or takes more bytes than a size does.
    """
    value = 0
    for place in range(_LONGEST_SIZE):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte <= 0x7F:
            return value, at + place + 1
    raise ValueError("a number of more bytes than expected")
