"""Writes a whole recipe as TOML, which `trainer.recipes.load` reads back as the same one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.recipe import HistoryInput, Recipe, Tower
from trainer.recipe_training import Training

_IN_FULL = (Training, Tower, HistoryInput)
"""What is written even where it is the default: these decide how good the towers are."""


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """Returns the text; keys that have their default are left out, but in `_IN_FULL`.

    Args:
        recipe: to write.
        comment: stands above it, a line.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in comment)  # TOML wants no control characters
    head = [f"# {' '.join(line.split())}"] if comment else []
    blocks = ["\n".join([*head, *_lines({k: v for k, v in _keys(recipe) if not _is_table(v)})])]
    for name, value in _keys(recipe):
        if _is_table(value):
            blocks += _table(name, value)
    return "\n\n".join(blocks) + "\n"


def _table(name: str, value: Any) -> Iterator[str]:
    """Yields a table, or each of several by name, then the attributes in it, each a block."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _table(f"{name}.{key}", part)
        return
    keys = dict(_keys(value))
    attributes = keys.pop("attributes") if isinstance(keys.get("attributes"), Mapping) else {}
    yield "\n".join([f"[{name}]", *_lines(keys)])
    if attributes:
        yield "\n".join([f"[{name}.attributes]", *_lines(attributes)])


def _keys(part: Any) -> Iterator[tuple[str, Any]]:
    """Yields the keys of a part of a recipe that have to be written."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        in_full = isinstance(part, _IN_FULL) and field.name != "description"
        if value is not None and (in_full or isinstance(value, _IN_FULL) or value != default):
            yield field.name, value


def _is_table(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, Mapping)


def _lines(keys: Mapping[str, Any]) -> Iterator[str]:
    for name, value in keys.items():
        if name == "features":
            yield "\n".join(["features = [", *(f"    {_value(feature)}," for feature in value), "]"])
        else:
            yield f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "{ " + ", ".join(f"{name} = {_value(inner)}" for name, inner in _keys(value)) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # also inf, nan and 1e-05 are floats of TOML
    # Texts and whole numbers are written as those of JSON are; but TOML wants this character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
