"""Requests for the live bundle of a store: ordinary ones, the most expensive allowed ones, and hostile ones."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import cycle, islice
from typing import Any

from benchmarks.attack.calls import NUMBER
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, ITEMS
from retrieval.store.folder_store import FolderStore
from two_tower.ann.v1 import ann_service_pb2 as ann
from two_tower.query.v1 import query_tower_service_pb2 as query
from two_tower_client import query_tower

LARGEST_BYTES = 4 << 20
_VARIANTS, _TEXT_ROWS = 16, 2000
_NUMBER_AS_DOUBLE: float = struct.unpack("<d", NUMBER)[0]


class Requests:
    """Serialized requests for one bundle. Requests that the bundle has no attribute or index for are left out."""

    def __init__(self, store: FolderStore) -> None:
        """Reads the live bundle.

        Raises:
            BundleError: no bundle is live, or it cannot be read.
        """
        version = store.live_version()
        folder, self._manifest = store.path(version), store.manifest(version)
        golden = GoldenQueries.read(folder / GOLDEN_QUERIES)
        self._items = ItemTable.read(folder / ITEMS, self._manifest.attributes)
        self._embeddings: list[list[float]] = golden.embeddings.tolist()
        self._features = [
            {name: column[row] for name, column in golden.columns.items() if column[row] is not None}
            for row in range(len(golden))
        ]
        self._is_lexical = any(name.startswith("lexical/") for name in self._manifest.files)

    def searches(self, count: int, k: int = 10) -> list[bytes]:
        """Returns SearchItems requests of `count` searches for `k` items each; they differ in their embeddings."""
        return [self._search(count, first=variant, k=k) for variant in range(_VARIANTS)]

    def queries(self, count: int) -> list[bytes]:
        """Returns EmbedQueries requests of `count` queries each; they differ in their queries."""
        rows = [list(islice(cycle(self._features), variant, variant + count)) for variant in range(_VARIANTS)]
        return [query_tower.to_request(features, "").SerializeToString() for features in rows]

    def work(self, is_search: bool, count: int) -> list[bytes]:
        """Returns requests of `count` searches, or of `count` queries."""
        return self.searches(count) if is_search else self.queries(count)

    @cached_property
    def costly_searches(self) -> dict[str, bytes]:
        """SearchItems requests of at most 4 MiB that are allowed and cost as much as possible, by name."""
        wide = self._filter_of_values(12, 10_000)
        numeric = next((name for name, type_ in self._types if type_ in ("int", "float")), "")
        columns = [name for name, _ in sorted(self._types, key=lambda each: each[1] != "string_list")][:3]
        made = {
            "k 1,000 with 3 attributes, 1,000 searches": self._search(1000, k=1000, return_attributes=columns),
            "exact scan, 1,000 searches": self._search(1000, k=100, exact=True),
            "search budget 10,000,000, 1,000 searches": self._search(1000, k=100, search_budget=10_000_000),
            "100,000 exclusions, 2 searches": self._search(2, k=1000, exclude_item_ids=self._ids(100_000)),
            "similar to 1,000 items, 300 searches": self._similar(300, 1000),
            "2,000,000 empty filters": self._search(1, filter=_empty_filters(LARGEST_BYTES // 2 - 1000)),
        }
        if wide is not None:
            made["filter of 120,000 values, 15 levels"] = self._search(1, filter=_deep(wide, 13))
            made["filter of 120,000 values, 47 levels (too deep)"] = self._search(1, filter=_deep(wide, 45))
        if numeric:
            ranges = [_ranges(numeric, 999, offset) for offset in range(150)]
            made["999 ranges, 150 searches"] = self._search(150, filters=ranges)
        if self._is_lexical:
            text = self._text(1000)
            made["text of 1,000 characters, 1,000 searches"] = self._lexical(1000, text, fused=False)
            made["fused with 1,000 characters, k 1,000, 1,000 searches"] = self._lexical(1000, text, fused=True)
        return {name: request for name, request in made.items() if len(request) <= LARGEST_BYTES}

    @cached_property
    def costly_queries(self) -> dict[str, bytes]:
        """EmbedQueries requests of at most 4 MiB that are allowed and cost as much as possible, by name."""
        made = {"1,000 queries": self.queries(1000)[0]}
        types = {each["name"]: each for each in self._manifest.feature_schema["features"]}
        for name, feature in types.items():
            if feature["kind"] == "history" and feature.get("value_type", "string") == "string":
                known = list(islice(cycle(self._ids(10_000)), 10_000))
                made["histories of 10,000 ids, 25 queries"] = _lists(name, known, 25)
                made["histories of 10,000 empty ids, 200 queries"] = _lists(name, [""] * 10_000, 200)
            if feature["kind"] == "text":
                text = [("lamp sofa table " * 80)[:1024]]
                made[f"{name} of 1,024 characters, 1,000 queries"] = _lists(name, text, 1000)
        return {name: request for name, request in made.items() if len(request) <= LARGEST_BYTES}

    @cached_property
    def hostile_filters(self) -> dict[str, bytes]:
        """SearchItems requests with filters at the limits of depth, conditions, values and nesting, by name.

        They hold `NUMBER`, so no two calls have the same filter, if the bundle has a suitable attribute.
        """
        made = {"2,000,000 empty filters": self._search(1, filter=_empty_filters(LARGEST_BYTES // 2 - 1000))}
        numeric = next((name for name, type_ in self._types if type_ in ("int", "float")), "")
        if (one := self._filter_of_values(1, 1)) is not None and (many := self._filter_of_values(1, 10_000)):
            made["16 levels"] = self._search(1, filter=_deep(one, 14))
            made["10,000 values, 16 levels"] = self._search(1, filter=_deep(many, 14))
            made["100,000 values"] = self._search(1, filter=self._filter_of_values(10, 10_000))
        if numeric:
            made["999 ranges"] = self._search(1, filter=_ranges(numeric, 998, 0, _NUMBER_AS_DOUBLE))
        return made

    @cached_property
    def distinct_filter(self) -> bytes | None:
        """A search with a filter of 10,000 ids, which differ from call to call; None without a string attribute."""
        wide = self._filter_of_values(1, 10_000)
        return None if wide is None else self._search(1, filter=wide)

    @property
    def _types(self) -> list[tuple[str, str]]:
        return sorted(self._manifest.attributes.items())

    def _ids(self, count: int) -> list[str]:
        return self._items.ids[: min(count, self._manifest.item_count - 1)]

    def _search(self, count: int, *, first: int = 0, filters: Sequence[ann.Filter] = (), **options: Any) -> bytes:
        options.setdefault("k", 10)
        request = ann.SearchItemsRequest(model_version=self._manifest.model_version)
        for number in range(count):
            embedding = self._embeddings[(first + number) % len(self._embeddings)]
            own = {"filter": filters[number]} if filters else {}
            request.searches.add(embedding={"values": embedding}, **options, **own)
        return request.SerializeToString()

    def _similar(self, count: int, targets: int) -> bytes:
        request = ann.SearchItemsRequest()
        for number in range(count):
            ids = self._items.ids[number : number + min(targets, self._manifest.item_count - count - 1)]
            request.searches.add(similar_to={"values": ids}, k=100)
        return request.SerializeToString()

    def _lexical(self, count: int, text: str, *, fused: bool) -> bytes:
        request = ann.SearchItemsRequest(model_version=self._manifest.model_version if fused else "")
        for number in range(count):
            search = request.searches.add(k=1000 if fused else 10, text=text, ranking="RANKING_LEXICAL")
            if fused:
                search.ranking = ann.RANKING_FUSED
                search.embedding.values.extend(self._embeddings[number % len(self._embeddings)])
        return request.SerializeToString()

    def _text(self, characters: int) -> str:
        """Returns the most frequent words of the string attributes of some items, as a text of that length."""
        names = [name for name, type_ in self._types if type_ == "string"]
        rows = range(min(_TEXT_ROWS, self._manifest.item_count))
        words = " ".join(str(self._items.attributes[name].at(row) or "") for name in names for row in rows).split()
        text = " ".join(word for word, _ in Counter(words).most_common())
        return text[:characters]

    def _filter_of_values(self, conditions: int, values: int) -> ann.Filter | None:
        """Returns an `any_of` of `in` conditions; each value starts with `NUMBER`. None without a string attribute."""
        name = next((name for name, type_ in self._types if type_ in ("string", "string_list")), "")
        if not name:
            return None
        made = ann.Filter()
        for condition in range(conditions):
            within = getattr(made.any_of.filters.add(), "in")
            within.attribute = name
            for value in range(values):
                within.values.add(string_value=f"{NUMBER.decode()}{condition:03}{value:06}")
        return made


def _deep(inner: ann.Filter, levels: int) -> ann.Filter:
    """Returns a filter within `levels` more levels of ``not`` and ``all_of``, each with another condition beside it."""
    for level in range(levels):
        outer = ann.Filter()
        if level % 2:
            getattr(outer, "not").CopyFrom(inner)
        else:
            outer.all_of.filters.add().CopyFrom(inner)
        inner = outer
    return inner


def _ranges(attribute: str, count: int, offset: float, last: float | None = None) -> ann.Filter:
    """Returns an `any_of` of `count` ranges, none of which equals another; `last` is the bound of one more range."""
    made = ann.Filter()
    for number in range(count):
        made.any_of.filters.add(range={"attribute": attribute, "min": offset * 1000 + number + 0.25})
    if last is not None:
        made.any_of.filters.add(range={"attribute": attribute, "min": last})
    return made


def _empty_filters(count: int) -> ann.Filter:
    made = ann.Filter()
    made.any_of.filters.extend([ann.Filter()] * count)
    return made


def _lists(feature: str, values: Sequence[str], count: int) -> bytes:
    one = query.Query(features={feature: query.FeatureValues(strings=query.StringList(values=values))})
    return query.EmbedQueriesRequest(queries=[one] * count).SerializeToString()
