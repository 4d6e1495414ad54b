"""Counts the values of an attribute over the candidates of a search."""

from __future__ import annotations

import numpy as np

from ann_service.plan import Facet
from ann_service.reranking.attribute_values import AttributeValues
from retrieval.bundle.catalogue.items import Column, FloatColumn
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_STRINGS_PER_STEP = 1000


def count(column: Column, rows: np.ndarray, facet: Facet) -> Steps[pb.FacetCounts]:
    """Returns how many rows have each value of an attribute. Pauses while it reads many strings.

    Args:
        column: the attribute.
        rows: [n] int64, distinct rows.
        facet: what to count, and how many values to return.
    """
    values = AttributeValues.of(column, rows)
    numbers, counts = np.unique(values.numbers, return_counts=True)  # [distinct]
    counted = pb.FacetCounts(
        attribute=facet.attribute,
        distinct_count=len(numbers),
        missing_count=len(rows) - len(np.unique(values.positions)),
    )
    if len(numbers) > facet.limit:
        # Values that tie with the last one are kept until the sort, which puts smaller ones first.
        least = np.partition(counts, len(counts) - facet.limit)[len(counts) - facet.limit]
        numbers, counts = numbers[counts >= least], counts[counts >= least]
    keys: list[str | int | float] = []
    for start in range(0, len(numbers), _STRINGS_PER_STEP):
        part = numbers[start : start + _STRINGS_PER_STEP].tolist()
        keys += part if values.strings is None else [values.strings[code] for code in part]
        yield
    # Python orders strings by code points, as UTF-8 bytes are ordered.
    ordered = sorted(zip((-counts).tolist(), keys, strict=True))
    kind = "string_value" if values.strings is not None else "int_value"
    kind = "float_value" if isinstance(column, FloatColumn) else kind
    for negated, key in ordered[: facet.limit]:
        counted.values.add(value={kind: key}, count=-negated)  # pyright: ignore[reportArgumentType]
    return counted
