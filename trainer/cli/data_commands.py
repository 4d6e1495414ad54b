"""The command `init`, which writes a recipe for a user's tables."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

from trainer.cli import console
from trainer.cli.store_commands import Json, print_json
from trainer.data.dataset import load_dataset
from trainer.drafting.draft import Draft, EntityTable, attribute_name, draft
from trainer.drafting.recipe_writer import write_recipe
from trainer.errors import DataError, RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe


def init(
    *,
    interactions: Path,
    items: Path | None = None,
    users: Path | None = None,
    out: Path = Path("recipe.toml"),
    force: Annotated[bool, Parameter(negative=())] = False,
    as_json: Json = False,
) -> None:
    """Write a recipe for your tables, with comments on what is uncertain.

    Example: `python -m trainer init --interactions purchases.csv --items products.csv`

    If the tables cannot be trained on as they are, the recipe is written all the same, and the exit code is 1.

    Args:
        interactions: Table of events, with user and item, and time if known: CSV with any separator, or Parquet.
        items: Table of items, one in a row: CSV, Parquet or JSON.
        users: Table of users, one in a row: CSV, Parquet or JSON.
        out: Recipe file to write, for `python -m trainer train`.
        force: Replace the recipe file if it exists.
        as_json: Print the recognised columns as JSON on stdout.
    """
    if out.exists() and not force:
        raise RecipeError(f"{out} exists and is kept; name another file with --out, or replace it with --force")
    drafted = draft(interactions, items, users, attribute_name(out.stem, ()))
    text = write_recipe(drafted, out.parent)
    recipe = loading.parse(tomllib.loads(text), str(out))
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{out}: cannot be written: {error}; name another file with --out") from error
    fault = _try_to_read(recipe, out.parent)
    console.console.print(f"[bold]{escape(str(out))}[/bold]: {escape(_describe(drafted))}")
    for doubt in drafted.doubts:
        console.console.print(f"not sure: {escape(doubt)}")
    print_json(_to_json(drafted, out, [*drafted.doubts, *([fault] if fault else [])]), as_json)
    if fault:
        raise DataError(f"{fault} (does each option name the right table? Mend it, or {out}, before you train)")
    console.console.print(f"Read it, then: python -m trainer train {escape(str(out))}")


def _try_to_read(recipe: Recipe, folder: Path) -> str:
    """Reads the tables as a training would; returns the error as a single sentence, or an empty text without error."""
    try:
        load_dataset(recipe, folder)
    except DataError as error:
        return f"The tables cannot be trained on as they are: {error}"
    return ""


def _describe(drafted: Draft) -> str:
    roles = drafted.roles
    time = "no time" if roles.time is None else f"time {roles.time!r}"
    features = [name for table in (drafted.users, drafted.items) if table for name in table.features]
    loss = drafted.choices.training["loss"]
    tables = {"items": drafted.items, "users": drafted.users}
    rows = [f", {len(table.source.frame):,} rows in the {name} table" for name, table in tables.items() if table]
    if drafted.left_out_count:
        rows.append(f", {drafted.left_out_count:,} rows without a user, an item or a time do not count")
    return (
        f"{drafted.event_count:,} interactions of {drafted.user_count:,} users with {drafted.used_item_count:,} items"
        f"{''.join(rows)}; user {roles.user!r}, item "
        f"{roles.item!r}, {time}; features {', '.join(['history', 'item_id', *features])}; {loss}, "
        f"split {drafted.split}."
    )


def _to_json(drafted: Draft, out: Path, doubts: list[str]) -> dict[str, Any]:
    roles = drafted.roles
    keys = ("user", "item", "time", "rating", "weight")
    return {
        "recipe": str(out),
        "interactions": {
            "separator": drafted.interactions.separator,
            "quote": drafted.interactions.quote,
            **{key: getattr(roles, key) for key in keys},
        },
        "items": _table_to_json(drafted.items),
        "users": _table_to_json(drafted.users),
        "split": drafted.split,
        "training": drafted.choices.training,
        "doubts": doubts,
    }


def _table_to_json(table: EntityTable | None) -> dict[str, Any] | None:
    if table is None:
        return None
    attributes = {
        name: {"column": column.column, "type": column.type, "kind": column.feature.get("kind")}
        for name, column in table.types.items()
    }
    return {"separator": table.source.separator, "quote": table.source.quote, "id": table.id, "attributes": attributes}
