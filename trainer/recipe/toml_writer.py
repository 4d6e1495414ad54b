"""Writes a recipe as TOML; `trainer.recipe.loading.load` reads the same recipe from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit
from tomlkit.items import Table

from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe, Tower
from trainer.recipe.training import Training

_IN_FULL = (Training, Tower, HistoryInput)
"""Parts that are written with every key, defaults too, as these decide the quality of the towers."""


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """Returns the TOML text of a recipe, without the keys that have their default, except in `_IN_FULL`.

    Args:
        recipe: Recipe to write.
        comment: Comment for the first line; empty for none.
    """
    document = tomlkit.document()
    line = "".join(letter if letter.isprintable() else " " for letter in comment)  # TOML allows no control characters
    if comment:
        document.add(tomlkit.comment(" ".join(line.split())))
    keys = dict(_keys(recipe))
    for name in sorted(keys, key=lambda name: _is_table(keys[name])):  # a key after a table would belong to that table
        document.add(name, _table(keys[name]) if _is_table(keys[name]) else _value(keys[name]))
    return tomlkit.dumps(document)


def _table(value: Any) -> Table:
    """Returns a part of a recipe as a table; parts by name become a table of tables."""
    if isinstance(value, Mapping):
        tables = tomlkit.table(is_super_table=True)
        for name, part in value.items():
            tables.add(name, _table(part))
        return tables
    table = tomlkit.table()
    keys = dict(_keys(value))
    for name in sorted(keys, key=lambda name: isinstance(keys[name], Mapping)):
        table.add(name, _value(keys[name]).multiline(True) if name == "features" else _value(keys[name]))
    return table


def _keys(part: Any) -> Iterator[tuple[str, Any]]:
    """Yields name and value of the keys of a part of a recipe that have to be written."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        in_full = isinstance(part, _IN_FULL) and field.name != "description"
        if value is not None and (in_full or isinstance(value, _IN_FULL) or value != default):
            yield field.name, value


def _is_table(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, Mapping)


def _value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        inline = tomlkit.inline_table()
        for name, inner in _keys(value):
            inline.add(name, _value(inner))
        return inline
    if isinstance(value, Mapping):  # the attributes of a table
        table = tomlkit.table()
        for name, inner in value.items():
            table.add(name, _value(inner))
        return table
    if isinstance(value, tuple | list):
        array = tomlkit.array()
        array.extend(map(_value, value))
        return array
    return tomlkit.item(value)
