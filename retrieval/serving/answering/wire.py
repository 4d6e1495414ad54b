"""Reads how many fields a serialized message has, and how long they are, without decoding it.

Protobuf decodes a message as a whole, in one step in which no other thread can run: 4 MiB of empty messages take 0.2 s
and 200 MB. So limits on numbers and sizes are checked on the bytes of a large message first. The format is described in
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval.serving.answering.errors import InvalidRequest

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5


def fields(body: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yields the number of each field, and the positions at which its content starts and ends.

    Args:
        body: a serialized message, or one that contains it.
        start: position at which the message starts.
        end: position at which it ends. Default: the end of `body`.

    Raises:
        InvalidRequest: the bytes are not a serialized message.
    """
    end = len(body) if end is None else end
    position = start
    while position < end:
        tag, position = _varint(body, position, end)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, position = _varint(body, position, end)
        elif kind == _VARINT:
            length = _varint(body, position, end)[1] - position
        elif kind == _FIXED_64:
            length = 8
        elif kind == _FIXED_32:
            length = 4
        else:
            raise _malformed(position)
        if position + length > end:
            raise _malformed(position)
        yield tag >> 3, position, position + length
        position += length


def _varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    """Returns the number at a position, and the position behind it."""
    value = shift = 0
    while position < end and shift < 64:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _malformed(position)


def _malformed(position: int) -> InvalidRequest:
    return InvalidRequest([("", f"not a serialized message at byte {position}; use the stubs of protos/")])
