"""What was found, as a response."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ann_index.exact import Found
from ann_service.plan import SearchPlan
from bundle.items import Column, ItemTable
from bundle.strings import Strings
from two_tower.ann.v1 import ann_service_pb2 as pb

_RESULT, _ITEM_ID, _SCORES = 0x0A, 0x0A, 0x12
"""Tags of fields on the wire: SearchItemsResponse.results, SearchResult.item_ids and .scores, packed."""

_ID_HEAD = 2
_LONGEST_ID = 127
"""The head of an id is its tag and its length, which takes one byte up to here."""


class Versions(NamedTuple):
    """What a response says of who answered, as the proto has it."""

    model: str
    bundle: str
    newest_model: str


def to_response(items: ItemTable, plans: Sequence[SearchPlan], found: Sequence[Found], versions: Versions) -> bytes:
    """Returns the SearchItemsResponse with these results, on the wire.

    Ids and scores stand there as they do in memory, so there is no Python object, nor a message, for each.

    Args:
        items: of the bundle.
        plans: of the searches.
        found: rows and scores of each.
        versions: of bundle and models.
    """
    texts, cuts = _item_ids(items.ids, [rows for rows, _ in found])
    parts: list[bytes] = []
    start = 0
    for plan, (rows, scores), end in zip(plans, found, cuts, strict=True):
        packed = scores.astype("<f4", copy=False).tobytes()
        head = bytes((_SCORES, *_varint(len(packed)))) if packed else b""
        columns = _columns(items, plan.return_attributes, rows) if plan.return_attributes else b""
        size = end - start + len(head) + len(packed) + len(columns)
        parts += bytes((_RESULT, *_varint(size))), texts[start:end], head, packed, columns
        start = end
    return b"".join((*parts, _tail(versions)))


def _varint(value: int) -> bytes:
    """Returns a size on the wire: seven bits a byte, the lowest first, the top bit set but in the last."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


@lru_cache(maxsize=64)
def _tail(versions: Versions) -> bytes:
    """Returns the versions on the wire."""
    response = pb.SearchItemsResponse(
        model_version=versions.model, bundle_version=versions.bundle, newest_model_version=versions.newest_model
    )
    return response.SerializeToString()


def _columns(items: ItemTable, names: Sequence[str], rows: np.ndarray) -> bytes:
    """Returns the attributes of a result on the wire."""
    columns = [_column(name, items.attributes[name], rows) for name in names]
    return pb.SearchResult(attributes=columns).SerializeToString()


def _item_ids(ids: Strings, rows: Sequence[np.ndarray]) -> tuple[bytes, list[int]]:
    """Returns the ids of all results on the wire, one after another, and where those of each result end."""
    counts = [len(each) for each in rows]
    every = np.concatenate(rows) if len(rows) > 1 else rows[0]  # [items of all results]
    if not len(every):
        return b"", [0] * len(counts)
    joined, starts, ends = ids.join(every, _ID_HEAD)
    sizes = ends - starts
    if int(sizes.max()) > _LONGEST_ID:
        return _long_item_ids(ids, rows)
    joined[starts - 2] = _ITEM_ID
    joined[starts - 1] = sizes
    return joined.tobytes(), [int(ends[count - 1]) if count else 0 for count in accumulate(counts)]


def _long_item_ids(ids: Strings, rows: Sequence[np.ndarray]) -> tuple[bytes, list[int]]:
    parts = [pb.SearchResult(item_ids=ids.take(each)).SerializeToString() for each in rows]
    return b"".join(parts), np.cumsum([len(part) for part in parts]).tolist()


def _column(name: str, column: Column, rows: np.ndarray) -> pb.AttributeColumn:
    values = [column.at(row) for row in rows.tolist()]
    message = pb.AttributeColumn(name=name, missing=[i for i, value in enumerate(values) if value is None])
    match column.type:
        case "string":
            message.strings.values.extend(value or "" for value in values)  # pyright: ignore[reportArgumentType]
            message.strings.SetInParent()
        case "int":
            message.ints.values.extend(value or 0 for value in values)  # pyright: ignore[reportArgumentType]
            message.ints.SetInParent()
        case "float":
            message.floats.values.extend(value or 0.0 for value in values)  # pyright: ignore[reportArgumentType]
            message.floats.SetInParent()
        case _:
            message.string_lists.values.extend(pb.StringColumn(values=value or ()) for value in values)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
            message.string_lists.SetInParent()
    return message
