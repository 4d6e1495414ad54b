"""The lexical index of a bundle, and the texts of the items that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.index.errors import LexicalMissing
from retrieval.index.lexical import files
from trainer.errors import ExportError
from trainer.recipe.recipe import Recipe, lexical_attributes


def texts_of(items: ItemTable, attributes: Sequence[str]) -> list[str]:
    """Returns the text of each item: [item_count], the values of its `attributes` joined by blanks."""
    columns = [items.attributes[name] for name in attributes]
    rows = range(len(items.ids))
    return [" ".join(str(value) for column in columns if (value := column.at(row))) for row in rows]


def write_lexical(recipe: Recipe, items: ItemTable, folder: Path) -> None:
    """Writes the lexical index of the items into the folder of a bundle, if the recipe has ``search.serve``.

    Raises:
        ExportError: bm25s is not installed.
    """
    if not recipe.search.serve:
        return
    attributes = lexical_attributes(recipe)
    try:
        files.write(folder, attributes, texts_of(items, attributes), items.ids)
    except LexicalMissing as error:
        raise ExportError(str(error)) from error
