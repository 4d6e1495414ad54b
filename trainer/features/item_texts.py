"""The texts of items for lexical search."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.bundle.catalogue.items import ItemTable


def item_texts(items: ItemTable, attributes: Sequence[str]) -> list[str]:
    """Returns the text of each item: [item_count], the values of its `attributes` joined by blanks."""
    columns = [items.attributes[name] for name in attributes]
    rows = range(len(items.ids))
    return [" ".join(str(value) for column in columns if (value := column.at(row))) for row in rows]
