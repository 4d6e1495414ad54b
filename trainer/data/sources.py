"""Finds the data folder of a recipe, and reads and splits its data."""

from __future__ import annotations

from pathlib import Path

from trainer.data import download, splits
from trainer.data.dataset import load_dataset
from trainer.data.icecat import catalogue
from trainer.data.splits import Data
from trainer.errors import DataError
from trainer.progress import SILENT, Progress
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe


def data_folder(
    recipe: Recipe, name: str, named: Path | None = None, cache: Path | None = None, *, progress: Progress = SILENT
) -> Path:
    """Returns the folder that a recipe's paths are relative to.

    Args:
        recipe: Recipe of the data.
        name: Name of the shipped recipe, or path of the recipe's file.
        named: Folder that the person names. Default: the recipe's download, or the folder of its file.
        cache: Folder for downloads. Default: `trainer.data.download.cache_folder`.
        progress: Progress reporter.

    Raises:
        DataError: The data does not ship with the trainer and no folder is named, or the tables are incomplete.
        DownloadError: The data cannot be downloaded.
    """
    if named is not None:
        if recipe.prepare is None:
            return named
        return catalogue.prepare(named, cache or download.cache_folder(), progress=progress)
    tables = [table for table in (recipe.interactions, recipe.items, recipe.users) if table is not None]
    if recipe.prepare is None and all(Path(table.path).is_absolute() for table in tables):
        return Path()
    if recipe.download is not None:
        progress.note(f"data: {recipe.download.package} {recipe.download.version}. {recipe.download.note}")
        return download.fetch(recipe.download, cache or download.cache_folder())
    if name not in loading.shipped():
        return Path(name).parent
    files = [table.path for table in tables] if recipe.prepare is None else catalogue.FILES
    others = ", or the files with --interactions, --items and --users" if recipe.prepare is None else ""
    raise DataError(
        f"{recipe.name}: its data does not come with the trainer; name the folder that holds {' and '.join(files)} "
        f"with --data{others}.\nOrigin: {recipe.origin}"
    )


def read(recipe: Recipe, folder: Path) -> Data:
    """Reads the data set of a recipe and splits it into training, validation and test.

    Raises:
        DataError: A table cannot be used; names file, column and row.
    """
    dataset = load_dataset(recipe, folder)
    return Data(dataset, splits.split(dataset, recipe.split))
