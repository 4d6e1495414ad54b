"""Writes the catalogue of a bundle: item vectors, items, popularity, and the lexical index if the recipe has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS, POPULARITY, VECTORS
from retrieval.index.errors import LexicalMissing
from retrieval.index.lexical import files
from trainer.errors import ExportError
from trainer.recipe.recipe import Recipe, lexical_attributes


def write_catalogue(
    folder: Path, recipe: Recipe, items: ItemTable, vectors: np.ndarray, popularity: np.ndarray | None
) -> None:
    """Writes vectors, items and popularity, and the lexical index if the recipe has ``search.serve``.

    Args:
        folder: Folder of the bundle.
        recipe: recipe, which names the attributes that the lexical index is made of.
        items: Items of the catalogue.
        vectors: [item_count, dim] float32, unit length: embeddings of the items, in the same order.
        popularity: [item_count] integers, number of training events of each item; None: the bundle gets no
            ``popularity.npy``.

    Raises:
        ExportError: The recipe has a lexical index and bm25s is not installed.
    """
    np.save(folder / VECTORS, vectors, allow_pickle=False)
    items.write(folder / ITEMS)
    if popularity is not None:
        np.save(folder / POPULARITY, popularity.astype(np.uint32), allow_pickle=False)
    if not recipe.search.serve:
        return
    attributes = lexical_attributes(recipe)
    try:
        files.write(folder, attributes, items.texts(attributes), items.ids)
    except LexicalMissing as error:
        raise ExportError(str(error)) from error
