"""The lexical index of a bundle."""

from __future__ import annotations

from pathlib import Path

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.index.lexical import files
from trainer.features.item_texts import item_texts
from trainer.recipe.recipe import Recipe, lexical_attributes


def write_lexical(recipe: Recipe, items: ItemTable, folder: Path) -> None:
    """Writes the lexical index of the items into the folder of a bundle, where the recipe serves one."""
    if recipe.search.serve:
        attributes = lexical_attributes(recipe)
        files.write(folder, attributes, item_texts(items, attributes), items.ids)
