"""Decodes requests. Large ones are decoded part by part, after limits were checked on their bytes.

Requests are decoded here and not by gRPC, because grpcio 1.85 loses 19 KB of memory for each body that its deserializer
cannot decode. And protobuf decodes a message as a whole, in one step in which no other thread can run: 4 MiB of empty
messages take 0.2 s and 200 MB. The format is described in https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from retrieval.serving.answering.errors import InvalidRequest
from retrieval.steps import Steps

M = TypeVar("M", bound=Message)
Part = TypeVar("Part", bound=Message)

MAX_OTHER_FIELDS = 1000
"""Largest number of fields of a large request beside its parts; unknown fields count too."""

FIELDS_A_STEP = 2000
_BYTES_A_STEP = 65_536
"""Number of fields that are looked at, and size of the parts that are decoded, without a pause: about a millisecond."""

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5


class Undecodable(InvalidRequest):
    """The body of a call is not a message of the expected class."""

    def __init__(self, fault: str) -> None:
        """Takes what the body is, such as ``"no message"``."""
        super().__init__([("", f"{fault}; use the stubs of protos/")])


def decode(body: bytes, message_class: type[M]) -> M:
    """Returns the message in a body.

    Raises:
        Undecodable: the bytes are not a message of this class.
    """
    message = message_class()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        name = message_class.DESCRIPTOR.full_name
        raise Undecodable(f"{len(body)} bytes that are not a serialized {name}") from error
    return message


def decode_parts(
    body: bytes,
    request_class: type[M],
    part_class: type[Part],
    field: str,
    max_parts: int,
    check: Callable[[str, bytes, int, int], Steps[None]],
) -> Steps[tuple[M, list[Part]]]:
    """Returns a large request without the parts of its repeated field, and the parts. Pauses between parts.

    Args:
        body: serialized request.
        request_class: class of the request.
        part_class: class of the parts.
        field: name of the repeated field that holds the parts.
        max_parts: largest number of parts.
        check: checks the limits of a part before it is decoded. It takes the path of the part, such as
            ``"queries[3]"``, the body, and the positions at which the part starts and ends.

    Raises:
        InvalidRequest: there are too many parts or other fields, or `check` refuses a part.
        Undecodable: the bytes are not a request.
    """
    part_number = request_class.DESCRIPTOR.fields_by_name[field].number
    parts: list[Part] = []
    others: list[bytes] = []
    field_start = step_bytes = 0
    for number, start, end in fields(body):
        if number == part_number:
            if len(parts) == max_parts:
                raise InvalidRequest([(field, f"more than {max_parts} {field}")])
            yield from check(f"{field}[{len(parts)}]", body, start, end)
            parts.append(decode(body[start:end], part_class))
            step_bytes += end - field_start
        elif len(others) == MAX_OTHER_FIELDS:
            raise InvalidRequest([("", f"more than {MAX_OTHER_FIELDS} fields beside {field}")])
        else:
            others.append(body[field_start:end])
        field_start = end
        if step_bytes > _BYTES_A_STEP:
            step_bytes = 0
            yield
    return decode(b"".join(others), request_class), parts


def fields(body: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yields the number of each field, and the positions at which its content starts and ends.

    Args:
        body: a serialized message, or one that contains it.
        start: position at which the message starts.
        end: position at which it ends. Default: the end of `body`.

    Raises:
        Undecodable: the bytes are not a serialized message.
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


def _malformed(position: int) -> Undecodable:
    return Undecodable(f"not a serialized message at byte {position}")
