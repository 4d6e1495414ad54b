"""Builds the response of SearchItems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ann_service.item_ids import encode_item_ids
from ann_service.plan import SearchPlan
from retrieval.bundle.catalogue.items import Column, ItemTable
from retrieval.index.hits import Hits
from two_tower.ann.v1 import ann_service_pb2 as pb


class Versions(NamedTuple):
    """The versions that a response names, as in the proto."""

    model: str
    bundle: str
    newest_model: str


def to_response(
    items: ItemTable, plans: Sequence[SearchPlan], hits: Sequence[Hits], versions: Versions
) -> pb.SearchItemsResponse:
    """Returns the response with these results.

    Args:
        items: ids and attributes of the bundle.
        plans: the searches.
        hits: hits of each search.
        versions: of bundle and models.
    """
    response = pb.SearchItemsResponse(
        model_version=versions.model, bundle_version=versions.bundle, newest_model_version=versions.newest_model
    )
    item_ids = encode_item_ids(items.ids, [rows for rows, _ in hits])
    for plan, (rows, scores), encoded in zip(plans, hits, item_ids, strict=True):
        result = response.results.add()
        result.MergeFromString(encoded)
        result.scores.extend(scores.tolist())
        result.attributes.extend(_column(name, items.attributes[name], rows) for name in plan.return_attributes)
    return response


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
