"""Writes a draft as a commented TOML recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import tomlkit

from retrieval.bundle.features.event_kinds import TIME
from trainer.drafting.column_types import Guess
from trainer.drafting.csv_dialect import Source
from trainer.drafting.draft import SMALL_CATALOGUE, Described, Draft, attribute_name, relative_path
from trainer.recipe.recipe import CLOCK, ID, ITEM_ID, USER_ID

_WIDTH = 118
_OF_TIMES = (TIME, "age", "gap")
"""Names that a value of a history cannot have."""
_RELEVANCES = ("relevance", "label", "clicked", "click", "is_click")
"""Names of columns that may be a relevance."""
_FEW_ITEMS = 1000
"""Below so many, recall@100 says little."""


def write_recipe(draft: Draft, folder: Path) -> str:
    """Returns the text of the recipe.

    Args:
        draft: what it says.
        folder: that it will stand in, and that its paths are relative to.
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
    keys = (("user", roles.user), ("item", roles.item), ("time", roles.time), ("weight", roles.weight))
    lines += [f"{key} = {_value(column)}" for key, column in (*keys, ("rating", roles.rating)) if column is not None]
    if roles.time is None:
        lines += _comment("No time: the order of the rows counts.")
    if roles.rating is not None:
        lines.append(f"# min_rating = {_good_rating(draft):g}  # leaves out the rows that are rated lower")
    lines += [f"# weight = {_value(amount)}" for amount in roles.amounts]
    lines += [
        f"# relevance = {_value(guess.column)}  # where it says, by 0 to 1, how well the item answers"
        for name, guess in draft.event_guesses.items()
        if name.lower() in _RELEVANCES
    ]
    past = _of_past_events(draft)
    if draft.event_guesses or past:
        lines += [
            "",
            *_comment(
                "Other columns. Take those that are known when a request is made, and name them in [query_tower] too; "
                "others can be values of the history."
            ),
            "# [interactions.attributes]",
            *(f"# {_attribute(name, guess)}" for name, guess in draft.event_guesses.items() if guess.type),
            *(f"# {name} = {_inline(keys)}" for name, (keys, _) in past.items() if name not in draft.event_guesses),
        ]
    return "\n".join(lines)


def _of_past_events(draft: Draft) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Returns what the history can read of its events, by name of the attribute: its keys, and those of the value."""
    found: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for name, guess in draft.event_guesses.items():
        kind = (guess.feature or {}).get("kind")
        if kind in ("numeric", "categorical") and name not in _OF_TIMES:
            found[name] = (guess.keys, {"name": name, "kind": kind})
    for column in (draft.roles.rating, *draft.roles.amounts):
        if column is not None:
            name = attribute_name(column, {*draft.event_guesses, *found, ID, USER_ID, ITEM_ID, *CLOCK, *_OF_TIMES})
            log = {} if column == draft.roles.rating else {"log": True}
            found[name] = ({"column": column, "type": "float"}, {"name": name, "kind": "numeric", **log})
    return found


def _good_rating(draft: Draft) -> float:
    """Returns four fifths of the best: 4 of 5."""
    best = draft.interactions.frame[draft.roles.rating or ""].cast(pl.Float64).max()
    return round(0.8 * float(best), 1)  # type: ignore[arg-type]


def _entities(name: str, table: Described, folder: Path) -> str:
    lines = [f"[{name}]", *_source(table.source, folder), f"id = {_value(table.id)}"]
    if table.guesses:
        lines += ["", f"[{name}.attributes]"]
        for attribute, guess in table.guesses.items():
            left_out = _comment(f"{guess.column} is left out: {guess.why}")
            lines += [_attribute(attribute, guess)] if guess.type else left_out
    return "\n".join(lines)


def _query_tower(draft: Draft) -> str:
    history = {"kind": "history", "encoder": "positions", "max_values": 50, "dropout": 0.2}
    features = {"history": history}
    for name, feature in (draft.users.features if draft.users else {}).items():
        # Callers rarely know all of a user; the tower learns to do without.
        features[name] = {**feature, "dropout": 0.3}
    values = [value for _, value in _of_past_events(draft).values()]
    comment: list[str] = []
    if values:
        values += [{"kind": "age"}] if draft.roles.time else []
        comment = [
            *_comment("The history can read more of its events; declare the attributes, and add to its keys:"),
            f"# values = [{', '.join(map(_inline, values))}]",
        ]
    return "\n".join(["[query_tower]", "hidden_units = [128]", "dropout = 0.2", *comment, *_features(features)])


def _item_tower(draft: Draft) -> str:
    # An item that is new to the trained tower is placed by its attributes: they have to be learned without the id.
    others = draft.items.features if draft.items else {}
    features = {"item_id": {"kind": "categorical", **({"dropout": 0.1} if others else {})}, **others}
    return "\n".join(["[item_tower]", "hidden_units = [128]", "dropout = 0.2", *_features(features)])


def _training(draft: Draft) -> str:
    lines = ["[training]"]
    for key, value in draft.training.items():
        if key == "loss":
            size = "at most" if value == "full_softmax" else "more than"
            lines += _comment(f"The catalogue has {draft.item_count:,} items, {size} {SMALL_CATALOGUE:,}.")
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


def _attribute(name: str, guess: Guess) -> str:
    keys = {"column": guess.column, **({} if guess.type == "string" else {"type": guess.type}), **guess.keys}
    return f"{name} = {_inline(keys)}" + (f"  # {guess.why}" if guess.why else "")


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
    """Returns lines of a comment; `text` may hold what a person's file holds, line breaks too."""
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
