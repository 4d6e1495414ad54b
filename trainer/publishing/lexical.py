"""What lexical search reads of the items, and the lexical index of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.index.lexical import files
from trainer.recipe.recipe import Recipe, lexical_attributes


def texts_of(items: ItemTable, attributes: Sequence[str]) -> list[str]:
    """Returns [item_count] texts: the values of some string attributes, with a blank between."""
    columns = [items.attributes[name] for name in attributes]
    rows = range(len(items.ids))
    return [" ".join(str(value) for column in columns if (value := column.at(row))) for row in rows]


def write_lexical(recipe: Recipe, items: ItemTable, folder: Path) -> None:
    """Writes the lexical index of the items into the folder of a bundle, where the recipe serves one."""
    if recipe.search.serve:
        attributes = lexical_attributes(recipe)
        files.write(folder, attributes, texts_of(items, attributes), items.ids)
