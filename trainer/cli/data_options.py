"""The options of all commands that read the tables of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from trainer.data import sources
from trainer.progress import Progress
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """Where the tables of a recipe are.

    Attributes:
        data: Folder of the recipe's tables. Default: its download, or the folder of the TOML file.
        interactions: Table of events to read instead of the recipe's; it has the same columns.
        items: Table of items to read instead of the recipe's.
        users: Table of users to read instead of the recipe's.
        cache: Folder for downloads. Default: $XDG_CACHE_HOME/two-tower.
    """

    data: Path | None = None
    interactions: Path | None = None
    items: Path | None = None
    users: Path | None = None
    cache: Path | None = None

    def load(self, recipe_name: str) -> Recipe:
        """Returns a recipe that reads the named tables.

        Raises:
            RecipeError: The recipe is wrong, or has no part for a named table.
        """
        return loading.with_tables(loading.load(recipe_name), self.interactions, self.items, self.users)

    def folder(self, recipe: Recipe, recipe_name: str, progress: Progress) -> Path:
        """Returns the folder that the recipe's paths are relative to; data that can be downloaded is.

        Raises:
            DataError: No folder is named, and there is no download.
            DownloadError: The data cannot be downloaded.
        """
        return sources.data_folder(recipe, recipe_name, self.data, self.cache, progress=progress)


DEFAULT = DataOptions()
