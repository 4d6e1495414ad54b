"""New, changed and withdrawn items without a training: a new catalogue of the same model.

Only the rows that are new or changed go through the item tower. All other vectors stay as they are, bit by bit, and the
query side is copied, so that the query tower service has nothing to load.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.items import COLUMN_TYPES, ItemTable
from retrieval.bundle.features.schema import encode_inputs, read_schema
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import (
    EVALUATION,
    GOLDEN_QUERIES,
    INDEX,
    ITEM_TOWER,
    ITEMS,
    LEXICAL_FILES,
    MANIFEST,
    REPORT,
    VECTORS,
)
from retrieval.bundle.manifest import FileEntry, GateResult, Manifest
from retrieval.store.store import BundleStore
from trainer.data.dataset import read_entities
from trainer.errors import DataError, RecipeError
from trainer.publishing import gates, index_selection
from trainer.publishing.golden_queries import make_golden_queries
from trainer.publishing.lexical import write_lexical
from trainer.quiet_tensorflow import quiet_stderr
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID, Recipe

_MADE_ANEW = frozenset({VECTORS, INDEX, ITEMS, GOLDEN_QUERIES, EVALUATION, REPORT, MANIFEST, *LEXICAL_FILES})

Row = dict[str, Any]
"""Raw attribute values of one item by name; None where missing."""

Embed = Callable[[Sequence[str], Sequence[Row]], np.ndarray]
"""Takes ids and rows, returns [n, dim] float32."""


@dataclass(frozen=True)
class Changes:
    """What differs from the catalogue before.

    Attributes:
        added: attributes of new items by id.
        changed: attributes of items that were there with others.
        removed: ids to drop.
        unchanged_count: rows of the table that are in the catalogue already, just so.
    """

    added: Mapping[str, Row]
    changed: Mapping[str, Row]
    removed: frozenset[str]
    unchanged_count: int

    def __len__(self) -> int:
        """How many items are touched."""
        return len(self.added) + len(self.changed) + len(self.removed)


def read_removals(path: Path) -> list[str]:
    """Returns the ids in a text file, one a line; empty lines do not count.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; write one item id a line, as UTF-8 text") from error
    return [line.strip() for line in lines if line.strip()]


def find_changes(store: BundleStore, base: Manifest, items: Path | None, removals: Collection[str]) -> Changes:
    """Returns what a table and a list of withdrawn ids change in a bundle.

    Args:
        store: that holds the bundle.
        base: its manifest; its files are verified first.
        items: new and changed rows, CSV or Parquet, with the columns of the recipe's items table.
        removals: ids to drop.

    Raises:
        DataError: the table is wrong, an id to remove is unknown or also in the table, or nothing would be left.
        RecipeError: the bundle's items have no table.
        BundleRefused: the bundle is damaged.
    """
    store.verify(base.bundle_version)
    table = ItemTable.read(store.path(base.bundle_version) / ITEMS, base.attributes)
    rows = {} if items is None else _read_rows(_recipe(base), base, items)
    removed = frozenset(removals)
    for wrong, what, advice in (
        (removed - table.rows.keys(), f"not in bundle {base.bundle_version}", "take them out of the list"),
        (removed & rows.keys(), f"in {items} too", "an item is either new or withdrawn: take it out of one"),
    ):
        if wrong:
            shown = ", ".join(map(repr, sorted(wrong)[:3]))
            raise DataError(f"{len(wrong)} of {len(removed)} ids to remove are {what}, for instance {shown}; {advice}")
    added = {item_id: row for item_id, row in rows.items() if item_id not in table.rows}
    changed = {item_id: row for item_id, row in rows.items() if item_id in table.rows and row != _row(table, item_id)}
    if len(removed) == len(table.ids) and not added:
        raise DataError(f"all {len(removed)} items would be removed; a bundle needs at least one")
    return Changes(added, changed, removed, len(rows) - len(added) - len(changed))


def publish_changes(store: BundleStore, base: Manifest, changes: Changes) -> Manifest:
    """Writes a bundle of the same model with a changed catalogue, not yet live, and returns its manifest.

    Metrics and publish gates are those of the base. Only the recall of the index is measured again, on golden queries.

    Args:
        store: that holds the base.
        base: bundle to start from, verified.
        changes: as of `find_changes`.

    Raises:
        ExportError: the index cannot be written.
        StoreError: the store cannot be written; nothing of the bundle is left.
    """
    recipe = _recipe(base)
    source = store.path(base.bundle_version)
    table, vectors = _apply(source, base, changes)
    version = store.new_version()
    with store.stage(version) as folder:
        for name in base.files.keys() - _MADE_ANEW:
            # Copied, not linked: damage to a file must not reach the bundle to roll back to.
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        table.write(folder / ITEMS)
        write_lexical(recipe, table, folder)
        old = GoldenQueries.read(source / GOLDEN_QUERIES)
        make_golden_queries(old.columns, old.embeddings, vectors, table.ids).write(folder / GOLDEN_QUERIES)
        floor = recipe.index.min_recall_at_100
        spec = index_selection.rebuild(vectors, old.embeddings, folder / INDEX, old=base.index, min_recall=floor)
        results = {**base.gates, gates.ANN_RECALL: gates.judge_ann_recall(spec.recall_at_100, floor)}
        (folder / EVALUATION).write_text(_evaluation(source, base, changes, results), encoding="utf-8")
        if REPORT in base.files:
            _copy_report(source / REPORT, folder / REPORT, base, changes)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return dataclasses.replace(
                base,
                bundle_version=version,
                parent_version=base.bundle_version,
                item_count=len(vectors),
                index=spec,
                files=files,
                gates=results,
            )

        return store.commit(folder, describe)


def _recipe(base: Manifest) -> Recipe:
    try:
        return loading.parse_stored(base.recipe, f"the recipe in bundle {base.bundle_version}")
    except RecipeError as error:
        raise RecipeError(f"{error}\nthis trainer did not make the bundle: publish one with `train`") from error


def _read_rows(recipe: Recipe, base: Manifest, path: Path) -> dict[str, Row]:
    if recipe.items is None:
        raise RecipeError(
            f"the recipe of bundle {base.bundle_version} has no [items] table, so its item tower can tell nothing of a "
            "new item; train again with the new interactions (removing items works)"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file; --items names a table with the columns of the recipe's items table")
    frame = read_entities(recipe.items, path)
    kinds = base.attributes
    # Through a column and back, as the values of the bundle went.
    columns = {name: COLUMN_TYPES[kinds[name]].of(frame[name].to_list()) for name in recipe.items.attributes}
    read = ItemTable.of(tuple(frame["id"].to_list()), columns)
    return {item_id: _row(read, item_id) for item_id in read.ids}


def _row(table: ItemTable, item_id: str) -> Row:
    row = table.rows[item_id]
    return {name: column.at(row) for name, column in table.attributes.items()}


def _apply(source: Path, base: Manifest, changes: Changes) -> tuple[ItemTable, np.ndarray]:
    """Returns the new catalogue: kept rows in their old order, then the added ones; and [item_count, dim] float32."""
    table = ItemTable.read(source / ITEMS, base.attributes)
    touched = {**changes.changed, **changes.added}
    vectors = np.load(source / VECTORS)
    kept = [row for row, item_id in enumerate(table.ids) if item_id not in changes.removed]
    ids = [*(table.ids[row] for row in kept), *changes.added]
    merged = np.concatenate([vectors[kept], np.zeros((len(changes.added), base.dimension), dtype=np.float32)])
    if touched:
        row_of = {item_id: row for row, item_id in enumerate(ids)}
        merged[[row_of[item_id] for item_id in touched]] = _embed(source, base, touched)
    attributes = {
        name: type(column).of(
            [
                *(_value(touched, table.ids[row], name, column, row) for row in kept),
                *(row[name] for row in changes.added.values()),
            ]
        )
        for name, column in table.attributes.items()
    }
    return ItemTable.of(tuple(ids), attributes), merged


def _value(touched: Mapping[str, Row], item_id: str, name: str, column: Any, row: int) -> Any:
    return touched[item_id][name] if item_id in touched else column.at(row)


def _embed(source: Path, base: Manifest, rows: Mapping[str, Row]) -> np.ndarray:
    """Returns the item tower's vectors of rows: [n, dim] float32, unit length."""
    # Here, because it takes seconds that a removal need not wait for.
    from retrieval.inference.text_encoder import open_text_encoders
    from trainer.publishing.item_tower import embed_rows

    schema = read_schema(source, base.item_feature_schema)
    with quiet_stderr():
        text_encoders = open_text_encoders(source, schema)
    columns = {
        f.name: list(rows) if f.name == ITEM_ID else [row[f.name] for row in rows.values()] for f in schema.features
    }
    return embed_rows(source / ITEM_TOWER, encode_inputs(schema, text_encoders, columns, len(rows)))


def _evaluation(source: Path, base: Manifest, changes: Changes, results: Mapping[str, GateResult]) -> str:
    """Returns the text of ``evaluation.json``."""
    report = json.loads((source / EVALUATION).read_text(encoding="utf-8"))
    report["note"] = (
        f"metrics, comparison and gates but {gates.ANN_RECALL} are those of bundle {_before(base, changes)}"
    )
    report["gates"] = {name: dataclasses.asdict(result) for name, result in results.items()}
    return json.dumps(report, indent=2) + "\n"


def _copy_report(source: Path, target: Path, base: Manifest, changes: Changes) -> None:
    """Writes the base's ``report.html`` with a note on what it does not know."""
    # Here, because it takes time that whoever only looks for changes need not wait for.
    from trainer.publishing.report.page import add_note

    note = f"This page is that of bundle {_before(base, changes)}. The index was built anew: see evaluation.json."
    page = add_note(source.read_text(encoding="utf-8"), note)
    target.write_text(page, encoding="utf-8", newline="\n")


def _before(base: Manifest, changes: Changes) -> str:
    return (
        f"{base.bundle_version}, before {len(changes.added)} items were added, {len(changes.changed)} changed and "
        f"{len(changes.removed)} removed"
    )
