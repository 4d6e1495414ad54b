"""Builds SearchItemsResponse.

Item ids are encoded by hand from the bytes of the catalogue, without a Python string for each id. All other fields are
set through generated messages. For a call of one search, generated messages would cost the same for the ids too. In a
call of 100 searches with k = 100, the 10,000 ids take 0.4 ms, and took at least 3.6 ms as Python strings. With an index
that answers a search in 0.1 ms, 3.6 ms are more than a fifth of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from retrieval.bundle.catalogue.items import Column
from retrieval.bundle.catalogue.string_table import Strings
from retrieval.index.hits import Hits
from two_tower.ann.v1 import ann_service_pb2 as pb

_TAG = 0x0A
"""Tag of SearchResult.item_ids: field 1, length-delimited."""

_HEAD_BYTES = 2
_MAX_ID_BYTES = 127
"""Longest id, in bytes, whose length is encoded in one byte. Tag and length precede each id."""


def build(
    catalogue: Catalogue, plans: Sequence[SearchPlan], results: Sequence[Hits], newest_model_version: str
) -> pb.SearchItemsResponse:
    """Returns the response to a request.

    Args:
        catalogue: catalogue that was searched.
        plans: searches of the request, at least one.
        results: hits of each plan.
        newest_model_version: model version of the newest open bundle.
    """
    response = pb.SearchItemsResponse(
        model_version=catalogue.manifest.model_version,
        bundle_version=catalogue.manifest.bundle_version,
        newest_model_version=newest_model_version,
    )
    items = catalogue.items
    encoded_ids = _encode_item_ids(items.ids, [rows for rows, _ in results])
    for plan, (rows, scores), encoded in zip(plans, results, encoded_ids, strict=True):
        result = response.results.add()
        result.MergeFromString(encoded)
        result.scores.extend(scores.tolist())
        result.attributes.extend(_column(name, items.attributes[name], rows) for name in plan.return_attributes)
    return response


def _encode_item_ids(ids: Strings, rows: Sequence[np.ndarray]) -> list[bytes]:
    """Returns for each search a serialized `SearchResult` that has the item ids only.

    Args:
        ids: item ids of the catalogue.
        rows: [n] int64 for each search, at least one search.
    """
    all_rows = np.concatenate(rows)
    if not len(all_rows):
        return [b""] * len(rows)
    joined, starts, ends = ids.join(all_rows, _HEAD_BYTES)
    lengths = ends - starts
    if int(lengths.max()) > _MAX_ID_BYTES:
        return [pb.SearchResult(item_ids=ids.take(each)).SerializeToString() for each in rows]
    joined[starts - 2] = _TAG
    joined[starts - 1] = lengths
    encoded = joined.tobytes()
    counts = accumulate(map(len, rows))
    bounds = [0, *(int(ends[count - 1]) if count else 0 for count in counts)]
    return [encoded[start:end] for start, end in pairwise(bounds)]


def _column(name: str, column: Column, rows: np.ndarray) -> pb.AttributeColumn:
    """Returns the values of an attribute at `rows`; `missing` lists the positions of the rows that have none."""
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
