"""Reads recipes: the shipped ones, and a person's own."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import RecipeError
from trainer.recipe import retired_keys
from trainer.recipe.checks import check
from trainer.recipe.recipe import ADAPTER, KEYS, Recipe


def shipped() -> list[str]:
    """Returns the names of the recipes that ship with the trainer, sorted."""
    folder = resources.files("trainer") / "recipe" / "shipped"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name_or_path: str) -> Recipe:
    """Returns a recipe by the name of a shipped one or by the path of a TOML file.

    Raises:
        RecipeError: There is no such recipe, it is not TOML, or a key is unknown, missing or out of range.
    """
    if name_or_path in shipped():
        text = (resources.files("trainer") / "recipe" / "shipped" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"no recipe {name_or_path!r}: expected one of {', '.join(shipped())}, "
                f"or the path of a TOML file ({_reason(error)})"
            ) from error
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib raises others for long numbers and deep arrays
        raise RecipeError(
            f"{name_or_path}: not valid TOML: {error}; text needs quotes, true and false small letters"
        ) from error
    return parse(raw, name_or_path)


def with_tables(
    recipe: Recipe, interactions: Path | None = None, items: Path | None = None, users: Path | None = None
) -> Recipe:
    """Returns a recipe that reads other files of the same form; None keeps a table.

    Raises:
        RecipeError: The recipe has no such table.
    """
    changes: dict[str, Any] = {}
    for name, path in (("interactions", interactions), ("items", items), ("users", users)):
        table = getattr(recipe, name)
        if path is not None and table is None:
            raise RecipeError(
                f"--{name} {path}: the recipe {recipe.name} has no part [{name}]; add it, or leave it out"
            )
        if path is not None:
            changes[name] = dataclasses.replace(table, path=str(path.resolve()))
    return dataclasses.replace(recipe, **changes)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def parse(raw: Mapping[str, Any], source: str) -> Recipe:
    """Returns the recipe that plain values describe.

    Args:
        raw: Values as read from TOML, or made by `Recipe.to_json`.
        source: Name of the recipe, for messages.

    Raises:
        RecipeError: Names each bad key.
    """
    try:
        recipe = ADAPTER.validate_python(raw)
    except ValidationError as error:
        errors = error.errors()
        # pydantic also reports too few features for a tower whose only feature is bad.
        inner = [e["loc"] for e in errors]
        errors = [e for e in errors if e["type"] != "too_short" or not any(_is_inside(loc, e["loc"]) for loc in inner)]
        lines = [f"  {_key_path(e['loc'], raw)}: {_advise(e)}" for e in errors]
        head = f"{source}: {len(lines)} key{'s' if len(lines) > 1 else ''} to mend (docs/recipes.md lists all)"
        raise RecipeError("\n".join([head, *lines])) from error
    check(recipe, source)
    return recipe


def parse_stored(raw: Mapping[str, Any], source: str) -> Recipe:
    """Returns a recipe that this trainer or an earlier one stored in a bundle, run, checkpoint or study.

    Renamed keys are read under their new names. Removed keys are left out; `trainer.recipe.retired_keys.unsupported`
    names those that shaped the towers.

    Args:
        raw: Values made by `Recipe.to_json`.
        source: Name of the recipe, for messages.

    Raises:
        RecipeError: Names each bad key.
    """
    return parse(retired_keys.migrate(raw), source)


def differences(
    before: Any, now: Any, name: str = "", phrase: str = "{name} was {before!r} and is {now!r}"
) -> list[str]:
    """Returns a phrase for each key whose value differs between two recipes, such as ``"seed was 1 and is 2"``.

    Args:
        before: Plain values of a recipe, or of a part of it.
        now: Plain values to compare.
        name: Name of the part, for the phrases.
        phrase: Form of a phrase.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        pairs = [(f"{name}.{key}".lstrip("."), before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{position}]", *pair) for position, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [phrase.format(name=name, before=before, now=now)]
    return [found for key, old, new in pairs for found in differences(old, new, key, phrase)]


def _key_path(keys: Sequence[int | str], raw: Any) -> str:
    """Returns the dotted path of a bad key; features are written by name, ``query_tower.features['age'].kind``."""
    words: list[str] = []
    for key in keys:
        inside = raw[key] if isinstance(raw, Mapping) and key in raw else None
        if isinstance(key, int) and isinstance(raw, list | tuple):
            inside = raw[key]
            name = inside.get("name") if isinstance(inside, Mapping) else None
            words[-1] += f"[{name!r}]" if name else f"[{key}]"
        elif inside is None and isinstance(raw, Mapping) and key == raw.get("kind") and key != keys[-1]:
            continue  # the kind of the feature, which pydantic adds
        else:
            words.append(str(key))
        raw = raw if inside is None else inside
    return ".".join(words)


def _advise(error: ErrorDetails) -> str:
    """Returns the error of a key as text for the user, with advice."""
    if error["type"] != "unexpected_keyword_argument":
        got = error.get("input")
        if got == retired_keys.AGE_DECAY:
            return retired_keys.ADVICE[got]
        return error["msg"] + (f", not {got!r}" if isinstance(got, str | int | float) else "")
    key = str(error["loc"][-1])
    if key in KEYS:
        return "not a key of this part; it belongs to another part"
    if key in retired_keys.ADVICE:
        return retired_keys.ADVICE[key]
    near = difflib.get_close_matches(key, KEYS, n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _is_inside(path: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer
