"""Counts the values of an attribute over the candidates of a search."""

from __future__ import annotations

import numpy as np

from ann_service.plan import Facet
from ann_service.reranking import attribute_values
from retrieval.bundle.catalogue.items import Column, FloatColumn, StringColumn, StringListColumn
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_KEYS_PER_STEP = 1000


def count(column: Column, rows: np.ndarray, facet: Facet) -> Steps[pb.FacetCounts]:
    """Returns how many rows have each value of an attribute. Pauses while it reads many values or strings.

    Args:
        column: the attribute.
        rows: [n] int64, distinct rows.
        facet: what to count, and how many values to return.
    """
    if isinstance(column, StringColumn | StringListColumn):
        numbers, counts, missing_count = yield from _count_codes(column, rows)
    else:
        read = list(attribute_values.parts(column, rows))  # a row has one number at most
        known = np.concatenate([part for part, _ in read]) if read else np.zeros(0)
        numbers, counts = np.unique(known, return_counts=True)  # [distinct]
        missing_count = len(rows) - len(known)
    yield
    counted = pb.FacetCounts(attribute=facet.attribute, distinct_count=len(numbers), missing_count=missing_count)
    if len(numbers) > facet.limit:
        # Values that tie with the last one are kept until they are sorted, which puts smaller ones first.
        at_least = np.cumsum(np.bincount(counts)[::-1])[::-1]  # [largest count + 1], values with this count or more
        least = np.flatnonzero(at_least >= facet.limit)[-1]
        kept = counts >= least
        numbers, counts = numbers[kept], counts[kept]
        yield
    # Python orders strings by code points, as UTF-8 bytes are ordered.
    ordered: list[tuple[int, str | int | float]] = []
    for start in range(0, len(numbers), _KEYS_PER_STEP):
        part = numbers[start : start + _KEYS_PER_STEP].tolist()
        negated = (-counts[start : start + _KEYS_PER_STEP]).tolist()
        if isinstance(column, StringColumn | StringListColumn):
            part = [column.values[code] for code in part]
        ordered = sorted([*ordered, *zip(negated, part, strict=True)])[: facet.limit]
        yield
    kind = "string_value" if isinstance(column, StringColumn | StringListColumn) else "int_value"
    kind = "float_value" if isinstance(column, FloatColumn) else kind
    for negative, key in ordered:
        counted.values.add(value={kind: key}, count=-negative)  # pyright: ignore[reportArgumentType]
    return counted


def _count_codes(
    column: StringColumn | StringListColumn, rows: np.ndarray
) -> Steps[tuple[np.ndarray, np.ndarray, int]]:
    """Returns the codes that occur, and how many rows have each: both [distinct]; and how many rows have none."""
    totals = np.zeros(len(column.values), dtype=np.int64)  # memory that is not written to is not read either
    found: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    missing_count = 0
    for codes, missing in attribute_values.parts(column, rows):
        distinct, counts = np.unique(codes, return_counts=True)
        found.append(distinct[totals[distinct] == 0])
        totals[distinct] += counts
        missing_count += missing
        yield
    numbers = np.concatenate(found)
    return numbers, totals[numbers], missing_count
