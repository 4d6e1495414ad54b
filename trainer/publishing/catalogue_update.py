"""Catalogue updates: a bundle of the same model with new, changed and withdrawn items, without a training.

Only new and changed items are embedded. All other vectors stay the same to the last bit, and the files of the query
tower are copied, so that the query tower service has nothing to load.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.items import COLUMN_TYPES, ItemTable
from retrieval.bundle.catalogue.parts import read_items, read_popularity, read_vectors
from retrieval.bundle.features.schema import read_schema
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import (
    CATALOGUE_FILES,
    EVALUATION,
    GOLDEN_QUERIES,
    INDEX,
    MANIFEST,
    REPORT,
    SHARDS,
)
from retrieval.bundle.manifest import FileEntry, GateResult, Manifest
from retrieval.index.sharding import describe_shards
from retrieval.store.store import BundleStore
from trainer.data.dataset import read_entities
from trainer.embedding.embedded_items import read_embedded
from trainer.errors import DataError, RecipeError
from trainer.publishing import catalogue_notes, gates, index_selection
from trainer.publishing.catalogue import write_catalogue
from trainer.publishing.golden_query_maker import make_golden_queries
from trainer.publishing.shards import cut_into_shards
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID, Recipe

_REBUILT = frozenset({*CATALOGUE_FILES, GOLDEN_QUERIES, EVALUATION, REPORT, MANIFEST})

Row = dict[str, Any]
"""Raw attribute values of one item by name; None if missing."""


@dataclass(frozen=True)
class Changes:
    """The differences between the catalogue of a bundle and the wanted one.

    Attributes:
        added: Attributes of the new items by item id.
        changed: New attributes of the changed items by item id.
        removed: Ids of the items to withdraw.
        unchanged_count: Number of rows of the items table that equal those of the catalogue.
        notes: Sentences about cells that were read other than they are written.
        vectors: Vectors of the added and changed items by id, each [dim] float32; None: they have to be embedded.
    """

    added: Mapping[str, Row]
    changed: Mapping[str, Row]
    removed: frozenset[str]
    unchanged_count: int
    notes: tuple[str, ...] = ()
    vectors: Mapping[str, np.ndarray] | None = None

    def __len__(self) -> int:
        """Returns the number of added, changed and removed items."""
        return len(self.added) + len(self.changed) + len(self.removed)


def read_removals(path: Path) -> list[str]:
    """Returns the item ids in a text file, one a line; empty lines are skipped.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; write one item id a line, as UTF-8 text") from error
    return [line.strip() for line in lines if line.strip()]


def find_changes(
    store: BundleStore,
    base: Manifest,
    items: Path | None,
    removals: Collection[str],
    embedded: str | None = None,
) -> Changes:
    """Returns the changes that an items table and a list of withdrawn ids make to the catalogue of a bundle.

    Args:
        store: Store that holds the bundle.
        base: Manifest of the bundle, whose files are verified first.
        items: CSV or Parquet file of new and changed items, with the columns of the recipe's items table. None: none.
        removals: Ids of the items to withdraw.
        embedded: Folder or URL of vectors that `embed-items` made, in place of `items`: its items are those of the
            table. None: none.

    Raises:
        DataError: The table is wrong, an id to remove is unknown or also in the table, or no item would be left.
        RecipeError: There is an items table, but the bundle's recipe has none.
        BundleRefused: The bundle is damaged.
    """
    store.verify(base.bundle_version)
    table = read_items(store.path(base.bundle_version), base, base.attributes)
    notes: list[str] = []
    rows = {} if items is None else _read_rows(_recipe(base), base, items, notes)
    vectors: dict[str, np.ndarray] | None = None
    if embedded is not None:
        vectors = {}
        for slice_items, slice_vectors in read_embedded(embedded, base, notes):
            rows |= _rows_of(slice_items)
            vectors |= zip(slice_items.ids, slice_vectors, strict=True)
    removed = frozenset(removals)
    for wrong, fault, advice in (
        (removed - table.rows.keys(), f"not in bundle {base.bundle_version}", "take them out of the list"),
        (
            removed & rows.keys(),
            f"in {items or embedded} too",
            "an item is either new or withdrawn: take it out of one",
        ),
    ):
        if wrong:
            shown = ", ".join(map(repr, sorted(wrong)[:3]))
            raise DataError(f"{len(wrong)} of {len(removed)} ids to remove are {fault}, for instance {shown}; {advice}")
    added = {item_id: row for item_id, row in rows.items() if item_id not in table.rows}
    changed = {item_id: row for item_id, row in rows.items() if item_id in table.rows and row != _row(table, item_id)}
    notes += catalogue_notes.note_lost_zeros(added, table.ids)
    schema = read_schema(store.path(base.bundle_version), base.item_feature_schema)
    notes += catalogue_notes.note_unknown_values(schema, [*added.values(), *changed.values()])
    notes += catalogue_notes.note_placed_by_attributes(schema, base.recipe, added)
    queries = read_schema(store.path(base.bundle_version), base.feature_schema)
    notes += catalogue_notes.note_unknown_in_histories(queries, added)
    if len(removed) == len(table.ids) and not added:
        raise DataError(f"all {len(removed)} items would be removed; a bundle needs at least one")
    return Changes(added, changed, removed, len(rows) - len(added) - len(changed), tuple(notes), vectors)


def publish_changes(store: BundleStore, base: Manifest, changes: Changes) -> Manifest:
    """Writes a bundle of the same model with a changed catalogue, not yet live, and returns its manifest.

    Metrics and publish gates are copied from the base bundle. Only the recall of the index is measured again, on the
    golden queries.

    Args:
        store: Store that holds the base bundle.
        base: Manifest of the base bundle, whose files are verified.
        changes: Changes that `find_changes` returned.

    Raises:
        ExportError: The index cannot be written.
        StoreError: The store cannot be written; nothing of the bundle is left.
    """
    recipe = _recipe(base)
    source = store.path(base.bundle_version)
    items, vectors, popularity = _apply(source, base, changes)
    version, shard_count = store.new_version(), max(1, len(base.shards))
    with store.stage(version) as folder:
        for name in (path for path in base.files.keys() - _REBUILT if not path.startswith(f"{SHARDS}/")):
            # Copied, not linked: damage to a file must not reach the bundle to roll back to.
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        write_catalogue(folder, recipe, items, vectors, popularity)
        old = GoldenQueries.read(source / GOLDEN_QUERIES)
        cut_into_shards(folder, items, vectors, old.columns, old.embeddings, shard_count)
        make_golden_queries(old.columns, old.embeddings, vectors, items.ids).write(folder / GOLDEN_QUERIES)
        floor = recipe.index.min_recall_at_100
        spec = index_selection.rebuild(
            vectors, old.embeddings, folder / INDEX, old=base.index, min_recall=floor, shard_count=shard_count
        )
        shards = describe_shards(folder, vectors, old.embeddings, spec, shard_count)
        results = {**base.gates, gates.ANN_RECALL: gates.judge_ann_recall(spec.recall_at_100, floor)}
        (folder / EVALUATION).write_text(_updated_evaluation(source, base, changes, results), encoding="utf-8")
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
                shards=shards,
            )

        return store.commit(folder, describe)


def _recipe(base: Manifest) -> Recipe:
    try:
        return loading.parse_stored(base.recipe, f"the recipe in bundle {base.bundle_version}")
    except RecipeError as error:
        raise RecipeError(f"{error}\nthis trainer did not make the bundle: publish one with `train`") from error


def _read_rows(recipe: Recipe, base: Manifest, path: Path, notes: list[str]) -> dict[str, Row]:
    if recipe.items is None:
        raise RecipeError(
            f"the recipe of bundle {base.bundle_version} has no [items] table, so its item tower cannot embed new "
            "items; train again with the new interactions (removing items works)"
        )
    if not path.exists():
        raise DataError(f"{path}: no such file; --items names a table with the columns of the recipe's items table")
    frame = read_entities(recipe.items, path, notes)
    # Values go through a column and back, as those of the bundle did, so that equal values compare as equal.
    columns = {name: COLUMN_TYPES[base.attributes[name]].of(frame[name].to_list()) for name in recipe.items.attributes}
    return _rows_of(ItemTable.of(tuple(frame["id"].to_list()), columns))


def _rows_of(table: ItemTable) -> dict[str, Row]:
    return {item_id: _row(table, item_id) for item_id in table.ids}


def _row(table: ItemTable, item_id: str) -> Row:
    row = table.rows[item_id]
    return {name: column.at(row) for name, column in table.attributes.items()}


def _apply(source: Path, base: Manifest, changes: Changes) -> tuple[ItemTable, np.ndarray, np.ndarray | None]:
    """Returns the new items, kept ones in their old order and then added ones, their vectors and their popularity.

    The vectors are [item_count, dim] float32, unit length. The popularity is [item_count] uint32, 0 for added items;
    None if the base bundle has none.
    """
    table = read_items(source, base, base.attributes)
    new_rows = {**changes.changed, **changes.added}
    vectors = read_vectors(source, base)
    kept = [row for row, item_id in enumerate(table.ids) if item_id not in changes.removed]
    ids = [*(table.ids[row] for row in kept), *changes.added]
    merged = np.concatenate([vectors[kept], np.zeros((len(changes.added), base.dimension), dtype=np.float32)])
    if new_rows:
        row_of = {item_id: row for row, item_id in enumerate(ids)}
        computed = _embed(source, base, new_rows) if changes.vectors is None else [changes.vectors[i] for i in new_rows]
        merged[[row_of[item_id] for item_id in new_rows]] = computed
    popularity = read_popularity(source, base)
    if popularity is not None:
        popularity = np.pad(popularity[kept], (0, len(changes.added)))
    attributes = {
        name: type(column).of(
            [
                *(_value(new_rows, table.ids[row], name, column, row) for row in kept),
                *(row[name] for row in changes.added.values()),
            ]
        )
        for name, column in table.attributes.items()
    }
    return ItemTable.of(tuple(ids), attributes), merged, popularity


def _value(new_rows: Mapping[str, Row], item_id: str, name: str, column: Any, row: int) -> Any:
    return new_rows[item_id][name] if item_id in new_rows else column.at(row)


def _embed(source: Path, base: Manifest, rows: Mapping[str, Row]) -> np.ndarray:
    """Returns the embeddings of items: [n, dim] float32, unit length."""
    # Imported here, because it takes seconds, and a removal does not need it.
    from trainer.embedding.item_tower import ItemTower

    tower = ItemTower(source, base)
    columns = {name: list(rows) if name == ITEM_ID else [row[name] for row in rows.values()] for name in tower.features}
    return tower.embed(columns, len(rows))


def _updated_evaluation(source: Path, base: Manifest, changes: Changes, results: Mapping[str, GateResult]) -> str:
    """Returns the text of ``evaluation.json``: that of the base bundle, with a note and the new gate results."""
    report = json.loads((source / EVALUATION).read_text(encoding="utf-8"))
    report["note"] = (
        f"metrics, comparison and all gates but {gates.ANN_RECALL} are those of bundle {_before(base, changes)}"
    )
    report["gates"] = gates.to_json(results)
    return json.dumps(report, indent=2) + "\n"


def _copy_report(source: Path, target: Path, base: Manifest, changes: Changes) -> None:
    """Writes the ``report.html`` of the base bundle with a note that it is older than the index."""
    # Imported here, because it takes time, and a command that finds no changes does not need it.
    from trainer.publishing.report.page import add_note

    note = f"This page is that of bundle {_before(base, changes)}. The index was built anew: see evaluation.json."
    page = add_note(source.read_text(encoding="utf-8"), note)
    target.write_text(page, encoding="utf-8", newline="\n")


def _before(base: Manifest, changes: Changes) -> str:
    return (
        f"{base.bundle_version}, before {len(changes.added)} items were added, {len(changes.changed)} changed and "
        f"{len(changes.removed)} removed"
    )
