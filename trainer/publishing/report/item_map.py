"""The titles of the items, and the map of their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable, StringColumn, StringListColumn
from trainer.publishing.report.page_data import ItemMap

_MAX_ITEMS = 5000
_MAX_GROUPS = 30
"""Largest number of distinct values of an attribute that colours the map."""
_TITLES = ("title", "name")


def item_titles(items: ItemTable) -> list[str]:
    """Returns [item_count] titles: the attribute ``title`` or ``name``, or the item id where it is missing."""
    for name in _TITLES:
        column = items.attributes.get(name)
        if isinstance(column, StringColumn):
            return [column.at(row) or item_id for row, item_id in enumerate(items.ids)]
    return list(items.ids)


def map_items(vectors: np.ndarray, counts: np.ndarray, items: ItemTable, titles: Sequence[str]) -> ItemMap | None:
    """Returns the first two principal components of the 5,000 most popular items (Pearson 1901).

    Returns None if there are fewer than three items.

    Args:
        vectors: [item_count, dim] float32, dim at least 2.
        counts: [item_count] int64, number of events of each item.
        items: items. The first text attribute with 2 to 30 distinct values gives the colours; of a list, its first
            value counts.
        titles: [item_count] titles.
    """
    if len(vectors) < 3:
        return None
    rows = np.argsort(-counts, kind="stable")[:_MAX_ITEMS]
    centred = vectors[rows].astype(np.float64)  # [n, dim]
    centred -= centred.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, :-3:-1]  # [dim, 2]
    # The sign of an eigenvector is arbitrary: the same vectors should give the same map.
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
    total = variances.sum()
    shares = variances[:-3:-1] / total if total > 0 else np.zeros(2)
    name = _group_attribute(items)
    groups = [_group(items, name, row) for row in rows] if name else []
    explained = (float(shares[0]), float(shares[1]))
    return ItemMap(centred @ directions, [titles[row] for row in rows], groups, name, explained, len(vectors))


def _group_attribute(items: ItemTable) -> str:
    """Returns the name of the attribute that gives the colours; empty if none does."""
    for name, column in items.attributes.items():
        coded = isinstance(column, StringColumn | StringListColumn)
        if coded and name not in _TITLES and 2 <= len(column.values) <= _MAX_GROUPS:
            return name
    return ""


def _group(items: ItemTable, name: str, row: int) -> str:
    value = items.attributes[name].at(row)
    first = value[0] if isinstance(value, tuple) else value
    return "none" if first is None else str(first)
