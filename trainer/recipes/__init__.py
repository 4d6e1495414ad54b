"""Reads recipes: those that ship in this folder, and a person's own."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import RecipeError
from trainer.recipe import ADAPTER, ITEM_ID, KEYS, USER_ID, CategoricalInput, HistoryInput, Recipe


def shipped() -> list[str]:
    """Returns the names of the recipes that come with the trainer."""
    folder = resources.files("trainer") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name_or_path: str) -> Recipe:
    """Returns a recipe, by the name of a shipped one or the path of a TOML file.

    Raises:
        RecipeError: there is none, it is no TOML, or a key is unknown, missing or out of range.
    """
    if name_or_path in shipped():
        text = (resources.files("trainer") / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise RecipeError(
                f"no recipe {name_or_path!r}: expected one of {', '.join(shipped())}, "
                f"or the path of a TOML file ({error})"
            ) from error
    try:
        return parse(tomllib.loads(text), name_or_path)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path}: not valid TOML: {error}") from error


def parse(raw: Mapping[str, Any], source: str) -> Recipe:
    """Returns the recipe in `raw`.

    Args:
        raw: as read from TOML or made by `Recipe.to_json`.
        source: its name, for messages.

    Raises:
        RecipeError: names each bad key.
    """
    try:
        recipe = ADAPTER.validate_python(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {_advise(e)}" for e in error.errors()]
        head = f"{source}: {len(lines)} key{'s' if len(lines) > 1 else ''} to mend (docs/recipes.md lists all)"
        raise RecipeError("\n".join([head, *lines])) from error
    _check(recipe, source)
    return recipe


def _advise(error: ErrorDetails) -> str:
    if error["type"] != "unexpected_keyword_argument":
        return error["msg"]
    near = difflib.get_close_matches(str(error["loc"][-1]), KEYS, n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _check(recipe: Recipe, source: str) -> None:
    sides = (
        ("query_tower", recipe.query_tower, recipe.users, USER_ID),
        ("item_tower", recipe.item_tower, recipe.items, ITEM_ID),
    )
    for side, tower, table, id_name in sides:
        attributes = {} if table is None else table.attributes
        names = [feature.name for feature in tower.features]
        if len(set(names)) != len(names):
            raise RecipeError(f"{source}: {side}: feature names {names} are not distinct")
        for feature in tower.features:
            where = f"{source}: {side}: feature {feature.name}"
            if isinstance(feature, HistoryInput):
                if side == "item_tower":
                    raise RecipeError(f"{where}: a history belongs to the query tower")
                continue
            if feature.name == id_name:
                if not isinstance(feature, CategoricalInput):
                    raise RecipeError(f"{where}: an id is categorical, not {feature.kind}")
                continue
            if feature.name not in attributes:
                table_name = "users" if side == "query_tower" else "items"
                raise RecipeError(
                    f"{where}: no such attribute; add it under [{table_name}.attributes] "
                    f"(there are {sorted(attributes)})"
                )
            types = {
                "categorical": ("string", "int"),
                "multi_categorical": ("string_list",),
                "numeric": ("int", "float"),
            }
            if attributes[feature.name].type not in types[feature.kind]:
                raise RecipeError(
                    f"{where}: kind {feature.kind} reads type {' or '.join(types[feature.kind])}, "
                    f"the attribute is of type {attributes[feature.name].type}"
                )
    if recipe.interactions.min_rating is not None and recipe.interactions.rating is None:
        raise RecipeError(f"{source}: interactions.min_rating needs interactions.rating, the column it applies to")
    if recipe.split.kind == "global_temporal" and recipe.interactions.time is None:
        raise RecipeError(f"{source}: split.kind global_temporal needs interactions.time, the column of the time")
    if recipe.items is not None and ITEM_ID in recipe.items.attributes:
        raise RecipeError(f"{source}: items.attributes: {ITEM_ID} is the id itself; choose another name")
