"""Builds SearchItemsResponse, as bytes.

Strings and scores are written from the arrays of the catalogue, without a Python object for each value: a call may ask
for a million items with their attributes. For 1,000 searches with k = 1,000 and three attributes, one of them a list,
generated messages take 15 s of CPU and this module 1.1 to 1.4 s (``python -m benchmarks.index.responses``). For one
search with k = 10, they take 0.2 to 0.3 ms both. Everything else is written with generated messages.

Protobuf's wire format is a sequence of fields, in any order; a field of bytes is its tag, its length, and the bytes
(https://protobuf.dev/programming-guides/encoding/). The parts of a message can therefore be written apart and joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import SEEK_END, BytesIO
from itertools import accumulate, pairwise

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import Reranked, Result, SearchPlan
from retrieval.bundle.catalogue.items import MISSING, Column, FloatColumn, IntColumn, StringColumn, StringListColumn
from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.bundle.manifest import Manifest
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_ROWS_PER_STEP = 4096
"""Searches are grouped up to so many hits, because many short lists of ids are encoded faster together."""

_LENGTH_DELIMITED = 2
_MAX_ONE_BYTE = 0x7F
"""Largest value that is one byte as a varint."""

_FIRST_FIELD = 1 << 3 | _LENGTH_DELIMITED
"""Tag of the first field: SearchResult.item_ids, StringColumn.values and StringListColumn.values."""


def build_steps(
    catalogue: Catalogue, plans: Sequence[SearchPlan], results: Sequence[Result], newest_model_version: str
) -> Steps[bytes]:
    """Returns the serialized `SearchItemsResponse` to a request; yields after each step of about 1 ms at most.

    Args:
        catalogue: catalogue that was searched.
        plans: searches of the request, at least one.
        results: result of each plan.
        newest_model_version: model version of the newest open bundle.
    """
    response = begin(catalogue.manifest, newest_model_version)
    yield from add(response, catalogue, plans, results)
    return response.getvalue()


def begin(manifest: Manifest, newest_model_version: str, coverage: float = 1.0) -> BytesIO:
    """Returns a serialized `SearchItemsResponse` without results, to which `add` or `add_message` adds results.

    Args:
        manifest: manifest of the bundle that is searched.
        newest_model_version: model version of the newest open bundle.
        coverage: share of the items that are searched, above 0 and at most 1.
    """
    head = pb.SearchItemsResponse(
        model_version=manifest.model_version,
        bundle_version=manifest.bundle_version,
        newest_model_version=newest_model_version,
        coverage=coverage,
    )
    response = BytesIO(head.SerializeToString())  # joining 74 MiB in the end would be one step of 60 ms
    response.seek(0, SEEK_END)
    return response


def add(response: BytesIO, catalogue: Catalogue, plans: Sequence[SearchPlan], results: Sequence[Result]) -> Steps[None]:
    """Adds results to a response; yields after each step of about 1 ms at most.

    Args:
        response: response that `begin` returned.
        catalogue: catalogue that was searched.
        plans: the next searches of the request, at least one.
        results: result of each plan.
    """
    start = 0
    while start < len(plans):
        end, row_count = start + 1, len(results[start].rows)
        while end < len(plans) and row_count + len(results[end].rows) <= _ROWS_PER_STEP:
            row_count += len(results[end].rows)
            end += 1
        encoded_ids = _encode_item_ids(catalogue.items.ids, [hits.rows for hits in results[start:end]])
        for plan, hits, ids in zip(plans[start:end], results[start:end], encoded_ids, strict=True):
            result = [ids, _field(pb.SearchResult.SCORES_FIELD_NUMBER, hits.scores.astype("<f4").tobytes())]
            for name in plan.return_attributes:
                column = _encode_column(name, catalogue.items.attributes[name], hits.rows)
                result.append(_field(pb.SearchResult.ATTRIBUTES_FIELD_NUMBER, column))
                yield
            if isinstance(hits, Reranked):
                result.append(hits.more.SerializeToString())
            response.write(_field(pb.SearchItemsResponse.RESULTS_FIELD_NUMBER, b"".join(result)))
        yield
        start = end


def add_message(response: BytesIO, result: pb.SearchResult) -> None:
    """Adds a result to a response that `begin` returned."""
    response.write(_field(pb.SearchItemsResponse.RESULTS_FIELD_NUMBER, result.SerializeToString()))


def _encode_item_ids(ids: Strings, rows: Sequence[np.ndarray]) -> list[bytes]:
    """Returns for each search the field `item_ids` of its `SearchResult`.

    Args:
        ids: item ids of the catalogue.
        rows: [n] int64 for each search, at least one search.
    """
    positions = np.concatenate(rows)
    encoded, ends = _encode_fields(ids, positions, ids.lengths(positions))
    bounds = [0, *(int(ends[count - 1]) if count else 0 for count in accumulate(map(len, rows)))]
    return [encoded[start:end] for start, end in pairwise(bounds)]


def _encode_column(name: str, column: Column, rows: np.ndarray) -> bytes:
    """Returns the serialized `AttributeColumn` of an attribute.

    Args:
        name: name of the attribute.
        column: values of the attribute.
        rows: [n] int64, rows of the items; `missing` lists the positions of those without a value.
    """
    match column:
        case StringColumn():
            codes = column.codes[rows]  # [n]
            missing = codes == MISSING
            number = pb.AttributeColumn.STRINGS_FIELD_NUMBER
            values = _encode_fields(column.values, codes, column.values.lengths(codes))[0]
        case StringListColumn():
            codes, counts = column.lists(rows)
            missing = counts == 0
            number = pb.AttributeColumn.STRING_LISTS_FIELD_NUMBER
            values = _encode_lists(column.values, codes, counts)
        case IntColumn():
            missing = ~column.present[rows]
            number = pb.AttributeColumn.INTS_FIELD_NUMBER
            values = pb.IntColumn(values=column.numbers[rows].tolist()).SerializeToString()
        case FloatColumn():
            numbers = column.numbers[rows]  # [n]
            missing = np.isnan(numbers)
            number = pb.AttributeColumn.FLOATS_FIELD_NUMBER
            values = pb.FloatColumn(values=np.where(missing, 0.0, numbers).tolist()).SerializeToString()
    message = pb.AttributeColumn(name=name, missing=np.flatnonzero(missing).tolist())
    return message.SerializeToString() + _field(number, values)


def _encode_lists(strings: Strings, positions: np.ndarray, counts: np.ndarray) -> bytes:
    """Returns a serialized `StringListColumn`.

    Args:
        strings: table of the strings.
        positions: [total] int32, positions in `strings`; the lists of all items, concatenated.
        counts: [n] int64, length of each list.
    """
    lengths = strings.lengths(positions)  # [total]
    bytes_before = np.concatenate([[0], np.cumsum(1 + _varint_bytes(lengths) + lengths)])  # [total + 1]
    ends = np.cumsum(counts)  # [n]
    # The head of each list is written as an empty string, with the size of the list in place of its length.
    heads = ends - counts + np.arange(len(counts))  # [n], index of each head among heads and strings
    is_string = np.ones(len(counts) + len(positions), dtype=bool)
    is_string[heads] = False
    positions_with_heads = np.full(len(is_string), ABSENT)
    positions_with_heads[is_string] = positions
    lengths_with_heads = np.empty(len(is_string), dtype=np.int64)
    lengths_with_heads[is_string] = lengths
    lengths_with_heads[heads] = bytes_before[ends] - bytes_before[ends - counts]
    return _encode_fields(strings, positions_with_heads, lengths_with_heads)[0]


def _encode_fields(strings: Strings, positions: np.ndarray, lengths: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Returns the strings at `positions`, each as the first field of a message, and the end of each: [n] int64.

    Args:
        strings: table of the strings.
        positions: [n] integers, positions in `strings`; -1 for an empty string.
        lengths: [n] int64, length to write before each string, in bytes.
    """
    if not len(positions):
        return b"", np.zeros(0, dtype=np.int64)
    if int(lengths.max()) <= _MAX_ONE_BYTE:  # almost always, and in half the time
        joined, starts, ends = strings.join(positions, 2)
        joined[starts - 2] = _FIRST_FIELD
        joined[starts - 1] = lengths
        return joined.tobytes(), ends
    length_bytes = _varint_bytes(lengths)  # [n]
    joined, starts, ends = strings.join(positions, 1 + length_bytes)
    joined[starts - length_bytes - 1] = _FIRST_FIELD
    for number in range(int(length_bytes.max())):
        written = np.flatnonzero(length_bytes > number)
        seven_bits = lengths[written] >> 7 * number & 0x7F
        is_continued = length_bytes[written] > number + 1
        joined[(starts - length_bytes)[written] + number] = seven_bits | is_continued << 7
    return joined.tobytes(), ends


def _varint_bytes(values: np.ndarray) -> np.ndarray:
    """Returns the number of bytes of each value as a varint: [n] int64; values are [n] int64, 0 or more."""
    sizes = np.ones(len(values), dtype=np.int64)
    largest = int(values.max(initial=0))
    for bits in range(7, largest.bit_length(), 7):
        sizes += values >= 1 << bits
    return sizes


def _field(number: int, content: bytes) -> bytes:
    """Returns a field of bytes of a message."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _MAX_ONE_BYTE:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
