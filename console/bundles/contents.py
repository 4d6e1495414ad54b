"""Files of bundles that the playground reads: titles of items, and ready examples of queries."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from retrieval.bundle.catalogue.items import ItemTable, StringColumn
from retrieval.bundle.catalogue.parts import paths_of, read_items
from retrieval.bundle.errors import BundleError
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, ITEMS
from retrieval.bundle.manifest import Manifest
from retrieval.store.store import BundleStore

_ITEMS_MAX_BYTES = 256 << 20
"""Largest tables of items that are read into memory for their titles."""

_GOLDEN_MAX_BYTES = 32 << 20
_BUNDLES_MAX = 2
"""Number of bundles whose titles and examples are kept: two can be compared."""

_EXAMPLES_MAX = 50
_TITLES = ("title", "name")

Content = TypeVar("Content")


@dataclass(frozen=True)
class TitledItem:
    """An item of a history.

    Attributes:
        item_id: External id.
        title: Title; None if it has none, or cannot be found.
        known: Whether the catalogue has it; None if the catalogue cannot be read.
    """

    item_id: str
    title: str | None = None
    known: bool | None = None


def find_title_attribute(attributes: Mapping[str, str]) -> str | None:
    """Returns the attribute that names an item to people: ``title``, ``name``, or the first text; None without one."""
    texts = [name for name, type_ in attributes.items() if type_ == "string"]
    return next((name for name in (*_TITLES, *texts) if name in texts), None)


class Titles:
    """The titles of items, kept for the bundles that were asked last. Safe for use by several threads."""

    def __init__(self, store: BundleStore) -> None:
        """Takes the store."""
        self._store = store
        self._kept = _Kept[ItemTable](self._read)

    def look_up(self, version: str, item_ids: Sequence[str]) -> tuple[list[TitledItem], str]:
        """Returns the items with their titles, in order, and why they have none if the catalogue cannot be read."""
        try:
            items = self._kept.get(version)
            rows: list[int] = items.ids.find(item_ids).tolist()
        except (BundleError, OSError, ValueError) as error:
            return [TitledItem(item_id) for item_id in item_ids], f"titles cannot be read: {error}"
        column = next(iter(items.attributes.values()), None)
        found: list[TitledItem] = []
        for item_id, row in zip(item_ids, rows, strict=True):
            title = column.at(row) if row >= 0 and isinstance(column, StringColumn) else None
            found.append(TitledItem(item_id, title, row >= 0))
        return found, ""

    def _read(self, version: str) -> ItemTable:
        manifest = self._store.manifest(version)
        paths = paths_of(manifest, ITEMS)
        _check_size(manifest, paths, _ITEMS_MAX_BYTES)
        self._store.verify(version, paths)
        name = find_title_attribute(manifest.attributes)
        return read_items(self._store.path(version), manifest, {name: "string"} if name else {})


class Examples:
    """Queries of the golden queries of bundles. Safe for use by several threads."""

    def __init__(self, store: BundleStore) -> None:
        """Takes the store."""
        self._store = store
        self._kept = _Kept[list[dict[str, Any]]](self._read)

    def of(self, version: str) -> list[dict[str, Any]]:
        """Returns the features of at most 50 held-out queries; none if the bundle cannot be read."""
        try:
            return self._kept.get(version)
        except (BundleError, OSError, ValueError):
            return []

    def _read(self, version: str) -> list[dict[str, Any]]:
        manifest = self._store.manifest(version)
        _check_size(manifest, [GOLDEN_QUERIES], _GOLDEN_MAX_BYTES)
        self._store.verify(version, [GOLDEN_QUERIES])
        columns = GoldenQueries.read(self._store.path(version) / GOLDEN_QUERIES).columns
        count = min((len(column) for column in columns.values()), default=0)
        return [
            {name: _plain(column[row]) for name, column in columns.items() if column[row] not in (None, [])}
            for row in range(min(count, _EXAMPLES_MAX))
        ]


class _Kept(Generic[Content]):
    """What a function reads of bundles, kept for the two that were asked last. One thread at a time reads."""

    def __init__(self, read: Callable[[str], Content]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._by_version: OrderedDict[str, Content] = OrderedDict()

    def get(self, version: str) -> Content:
        with self._lock:
            if version not in self._by_version:
                while len(self._by_version) >= _BUNDLES_MAX:
                    self._by_version.popitem(last=False)
                self._by_version[version] = self._read(version)
            self._by_version.move_to_end(version)
            return self._by_version[version]


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: None in place of NaN, which stands for an event without a value."""
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[Any]", value)]
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_size(manifest: Manifest, paths: Sequence[str], most: int) -> None:
    size = sum(manifest.files[path].size_bytes for path in paths if path in manifest.files)
    if size > most:
        raise ValueError(f"{', '.join(paths[:2])} of {manifest.bundle_version} has {size:,} bytes, more than {most:,}")
