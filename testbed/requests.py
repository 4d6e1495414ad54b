"""Requests for ghz, made from a bundle: ``python -m testbed.requests --store STORE --out FOLDER``.

The queries are the golden queries of the bundle, which were held out of its training data. Each file is a JSON array of
requests that ghz sends one after another.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.errors import BundleError
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, ITEMS
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from two_tower_client import Search, ann, query_tower
from two_tower_client.filters import Filter, equals, in_range

BATCH = 32
K = 100
EXCLUDED = 100
_REQUESTS = 50
"""Largest number of requests in a file."""

_SEEN_ITEMS = 10_000
"""Number of items from which the value of the filter is chosen."""


def make_requests(store: FolderStore, version: str) -> dict[str, list[Message]]:
    """Returns the requests for a bundle, by name of the file to write them to.

    Args:
        store: store that holds the bundle.
        version: version of the bundle.
    """
    manifest, folder = store.manifest(version), store.path(version)
    golden_queries = GoldenQueries.read(folder / GOLDEN_QUERIES)
    items = ItemTable.read(folder / ITEMS, manifest.attributes)
    features = [_features(golden_queries, row) for row in range(min(len(golden_queries), _REQUESTS))]
    embeddings = [golden_queries.embeddings[row].tolist() for row in range(len(features))]
    item_filter = _filter(items, manifest)
    excluded = [items.ids[row] for row in range(min(EXCLUDED, manifest.item_count - 1))]

    def search(**options: Any) -> list[Message]:
        return [_search(manifest, [Search(embedding=e, k=K, **options)]) for e in embeddings]

    requests: dict[str, list[Message]] = {
        "embed-single": [query_tower.to_request([each], "") for each in features],
        "embed-batch": [query_tower.to_request(batch, "") for batch in _batches(features)],
        "search-single": search(),
        "search-batch": [
            _search(manifest, [Search(embedding=e, k=K) for e in batch]) for batch in _batches(embeddings)
        ],
        "search-exclude": search(exclude=excluded),
    }
    if item_filter is not None:
        requests["search-filter"] = search(filter=item_filter)
    return requests


def write_requests(requests: Mapping[str, Sequence[Message]], folder: Path) -> None:
    """Writes one JSON file for each list of requests into `folder`, which is created if it does not exist.

    Args:
        requests: requests by file name, as `make_requests` returns them.
        folder: folder of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, messages in requests.items():
        text = json.dumps([MessageToDict(message) for message in messages], ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _features(golden_queries: GoldenQueries, row: int) -> dict[str, Any]:
    return {name: column[row] for name, column in golden_queries.columns.items() if column[row] is not None}


def _batches(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """Yields a few batches of the rows; each batch begins with another row."""
    for start in range(0, len(rows), max(1, len(rows) // 8)):
        yield list(itertools.islice(itertools.cycle([*rows[start:], *rows[:start]]), BATCH))


def _search(manifest: Manifest, searches: Sequence[Search]) -> Message:
    return ann.to_request(searches, manifest.model_version, "")


def _filter(items: ItemTable, manifest: Manifest) -> Filter | None:
    """Returns a filter that many items match; None if no attribute is suitable.

    It selects the commonest value of a categorical attribute, or half the range of a number.
    """
    rows = range(min(manifest.item_count, _SEEN_ITEMS))
    for name, type_ in sorted(manifest.attributes.items(), key=lambda each: each[1] != "string_list"):
        values = [items.attributes[name].at(row) for row in rows]
        if type_ in ("string", "string_list"):
            counts = Counter(itertools.chain.from_iterable([v] if isinstance(v, str) else v or () for v in values))
            value, count = counts.most_common(1)[0] if counts else ("", 0)
            if count >= len(rows) // 20:
                return equals(name, value)
        else:
            present = sorted(value for value in values if value is not None)
            if present:
                return in_range(name, min=float(present[len(present) // 2]))
    return None


def main() -> int:
    """Writes the request files for the live bundle of a store, and returns 0."""
    parser = argparse.ArgumentParser(prog="testbed.requests", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="store whose live bundle the requests are for")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files to")
    arguments = parser.parse_args()
    store = FolderStore(arguments.store)
    try:
        version = store.live_version()
    except BundleError as error:
        print(f"testbed.requests: {error}", file=sys.stderr)
        return 1
    requests = make_requests(store, version)
    write_requests(requests, arguments.out)
    print(f"{arguments.out}: {', '.join(requests)} of {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
