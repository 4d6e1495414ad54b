"""Writes a draft as a commented TOML recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from retrieval.bundle.features.event_kinds import TIME
from trainer.drafting.column_content import numbers_of
from trainer.drafting.column_types import ColumnType
from trainer.drafting.csv_dialect import Source
from trainer.drafting.draft import Draft, EntityTable, attribute_name, relative_path
from trainer.recipe.recipe import CLOCK, ID, ITEM_ID, USER_ID

_WIDTH = 118
_TIME_NAMES = (TIME, "age", "gap")
"""Names that an event feature cannot have."""
_RELEVANCES = ("relevance", "label", "clicked", "click", "is_click")
"""Names of columns that may hold a relevance."""
_FEW_ITEMS = 1000
"""Smallest number of items for which recall@100 is a meaningful metric."""


def write_recipe(draft: Draft, folder: Path) -> str:
    """Returns the TOML text of a drafted recipe, with comments.

    Args:
        draft: Content of the recipe.
        folder: Folder of the recipe, which its paths are relative to.
    """
    blocks = [
        _head(draft),
        _interactions(draft, folder),
        *(_entities(name, table, folder) for name, table in (("items", draft.items), ("users", draft.users)) if table),
        _query_tower(draft),
        _item_tower(draft),
        f'[split]\nkind = "{draft.split}"',
        _training(draft),
        *([_gates(draft)] if draft.item_count < _FEW_ITEMS else []),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(draft: Draft) -> str:
    lines = list(
        _comment("Drafted by `python -m trainer init`; docs/recipes.md explains every key. Read it before you train.")
    )
    if draft.doubts:
        lines += ["#", *_comment("Not sure of:"), *(line for doubt in draft.doubts for line in _comment(f"- {doubt}"))]
    return "\n".join([*lines, f"name = {_value(draft.name)}"])


def _interactions(draft: Draft, folder: Path) -> str:
    roles = draft.roles
    lines = ["[interactions]", *_source(draft.interactions, folder)]
    if draft.interactions.format == "sequences":
        return "\n".join([*lines, 'format = "sequences"  # one line for each user: user item item …, oldest first'])
    keys = (("user", roles.user), ("item", roles.item), ("time", roles.time), ("weight", roles.weight))
    lines += [f"{key} = {_value(column)}" for key, column in (*keys, ("rating", roles.rating)) if column is not None]
    if roles.leaves_out:
        lines.append('missing = "leave_out"  # rows without a user, an item or a time')
    if roles.time is None:
        lines += _comment("No time: the order of the rows counts.")
    if roles.rating is not None:
        lines.append(f"# min_rating = {_good_rating(draft):g}  # leaves out the rows that are rated lower")
    lines += [f"# weight = {_value(amount)}" for amount in roles.amounts]
    lines += [
        f"# relevance = {_value(column.column)}  # if it is the relevance of the item, 0 to 1"
        for name, column in draft.event_types.items()
        if name.lower() in _RELEVANCES
    ]
    past = _event_features(draft)
    if draft.event_types or past:
        lines += [
            "",
            *_comment(
                "Other columns. Take those that are known when a request is made, and name them in [query_tower] too; "
                "others can be event features of the history."
            ),
            "# [interactions.attributes]",
            *(f"# {_attribute(name, column)}" for name, column in draft.event_types.items() if column.type),
            *(f"# {name} = {_inline(keys)}" for name, (keys, _) in past.items() if name not in draft.event_types),
        ]
    return "\n".join(lines)


def _event_features(draft: Draft) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Returns the event features that the history could have, by name.

    Each is a tuple: recipe keys of the attribute that the feature reads, and recipe keys of the event feature.
    """
    features: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for name, column in draft.event_types.items():
        kind = (column.feature or {}).get("kind")
        if kind in ("numeric", "categorical") and name not in _TIME_NAMES:
            features[name] = (column.keys, {"name": name, "kind": kind})
    for column in (draft.roles.rating, *draft.roles.amounts):
        if column is not None:
            name = attribute_name(column, {*draft.event_types, *features, ID, USER_ID, ITEM_ID, *CLOCK, *_TIME_NAMES})
            log = {} if column == draft.roles.rating else {"log": True}
            features[name] = ({"column": column, "type": "float"}, {"name": name, "kind": "numeric", **log})
    return features


def _good_rating(draft: Draft) -> float:
    """Returns four fifths of the highest rating, such as 4 of 5."""
    numbers = numbers_of(draft.interactions.frame[draft.roles.rating or ""])
    return 0.0 if numbers is None else round(0.8 * float(numbers.max() or 0), 1)  # type: ignore[arg-type]


def _entities(name: str, table: EntityTable, folder: Path) -> str:
    lines = [f"[{name}]", *_source(table.source, folder), f"id = {_value(table.id)}"]
    if table.types:
        lines += ["", f"[{name}.attributes]"]
        for attribute, column in table.types.items():
            left_out = _comment(f"{column.column} is left out: {column.why}")
            lines += [_attribute(attribute, column)] if column.type else left_out
    return "\n".join(lines)


def _query_tower(draft: Draft) -> str:
    features: dict[str, dict[str, Any]] = {"history": {"kind": "history", **draft.choices.history}}
    for name, feature in (draft.users.features if draft.users else {}).items():
        # Feature dropout, as requests rarely have every attribute of a user.
        features[name] = {**feature, "dropout": 0.5}
    event_features = [keys for _, keys in _event_features(draft).values()]
    comment: list[str] = []
    if event_features:
        event_features += [{"kind": "age"}] if draft.roles.time else []
        comment = [
            *_comment("The history can read more of its events; declare the attributes, and add to its keys:"),
            f"# event_features = [{', '.join(map(_inline, event_features))}]",
        ]
    return "\n".join(["[query_tower]", *_layers(draft), *comment, *_features(features)])


def _item_tower(draft: Draft) -> str:
    # Feature dropout of the id, so that new items are embedded well by their attributes alone.
    others = draft.items.features if draft.items else {}
    features = {"item_id": {"kind": "categorical", **({"dropout": 0.05} if others else {})}, **others}
    return "\n".join(["[item_tower]", *_layers(draft), *_features(features)])


def _layers(draft: Draft) -> list[str]:
    return [f"hidden_units = {_value(list(draft.choices.hidden_units))}", "dropout = 0.2"]


def _training(draft: Draft) -> str:
    lines = ["[training]"]
    for key, value in draft.choices.training.items():
        if key in draft.choices.reasons:
            lines += _comment(draft.choices.reasons[key])
        lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines)


def _gates(draft: Draft) -> str:
    why = _comment(f"Of {draft.item_count:,} items any ranking has nearly all in its first 100: ndcg@10 alone judges.")
    return "\n".join(["[gates]", *why, 'metrics = ["ndcg@10"]'])


def _features(features: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "features = ["
    for name, keys in features.items():
        yield f"    {_inline({'name': name, **keys})},"
    yield "]"


def _attribute(name: str, column: ColumnType) -> str:
    keys = {"column": column.column, **({} if column.type == "string" else {"type": column.type}), **column.keys}
    return f"{name} = {_inline(keys)}" + (f"  # {column.why}" if column.why else "")


def _source(source: Source, folder: Path) -> Iterator[str]:
    yield f"path = {_value(relative_path(source.path, folder))}"
    if source.separator != ",":
        yield f"separator = {_value(source.separator)}"
    if source.quote != '"':
        yield f"quote = {_value(source.quote)}"


def _inline(keys: Mapping[str, Any]) -> str:
    """Returns an inline table as TOML."""
    table = tomlkit.inline_table()
    table.update(keys)
    return table.as_string()


def _value(value: Any) -> str:
    """Returns a text, number or list as TOML."""
    return tomlkit.item(value).as_string()


def _comment(text: str) -> list[str]:
    """Returns the lines of a comment; line breaks in `text` are removed, as it may contain cells of a person's file."""
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
