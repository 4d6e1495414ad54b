"""Opens the catalogue of a bundle, and refuses it unless it passes the load gates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ann_service.bitsets import BitsetCache
from ann_service.catalogue import RECALL_AT, Catalogue, Popularity
from ann_service.config import AnnConfig
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.catalogue.parts import Part, parts_of
from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import (
    GOLDEN_QUERIES,
    INDEX,
    ITEMS,
    LEXICAL,
    LEXICAL_DESCRIPTION,
    LEXICAL_FILES,
    POPULARITY,
    VECTORS,
)
from retrieval.bundle.manifest import Manifest
from retrieval.index.errors import FaissMissing
from retrieval.index.lexical import files as lexical_files
from retrieval.index.lexical.files import LexicalIndex
from retrieval.index.registry import Index, open_index
from retrieval.index.scan import scan
from retrieval.serving.bundles.file_memory import measure_files
from retrieval.serving.bundles.verification import available_bytes, check_memory, read_contents, read_golden_queries
from retrieval.store.store import BundleStore

_FILES = (VECTORS, INDEX, ITEMS, GOLDEN_QUERIES)
"""Files that this service reads from every bundle."""

_SCORE_TOLERANCE = 1e-5
"""Scores that differ by no more are a tie: the publisher may have ordered the two items the other way round."""


class CatalogueLoader:
    """Opens the catalogues of bundles."""

    def __init__(self, store: BundleStore, config: AnnConfig) -> None:
        """Takes the store of the bundles, and the settings."""
        self._store = store
        self._config = config

    def open(self, version: str, beside: Collection[str]) -> Catalogue:
        """Returns the catalogue of an ordinary bundle, verified and warmed up; see `open_parts`."""
        [catalogue] = self.open_parts(version, parts_of(self._store.manifest(version)), beside)
        return catalogue

    def open_parts(self, version: str, parts: Sequence[Part], beside: Collection[str]) -> list[Catalogue]:
        """Returns catalogues of a bundle, verified and warmed up: that of an ordinary bundle, or some of its shards.

        Args:
            version: bundle version.
            parts: parts of the bundle to open, which memory has to hold together.
            beside: versions of the bundles that stay open, so that memory has to hold them in addition.

        Raises:
            BundleError: a gate refused it; see `retrieval.serving.bundles.verification`. Gate ``index``: the index is
                not an index over these vectors. Gate ``recall``: the index finds too few of the nearest items. Gate
                ``lexical``: the lexical index is damaged, or does not belong to these items.
        """
        files = [part.path(name) for part in parts for name in files_of(part.manifest)]
        entries = {part.path(name): entry for part in parts for name, entry in part.manifest.files.items()}
        if not entries.keys() >= set(files):
            self._store.verify(version, files)  # raises, and names the files that the manifest does not list
        # Before the files are hashed: reading a bundle that does not fit would push the open one out of memory.
        copies = 1 if beside or self._config.unload_first else 2
        check_memory(version, {path: entries[path].size_bytes for path in files}, copies, available_bytes())
        self._store.verify(version, files)
        folder = self._store.path(version)
        sizes = {
            part.path(name): size
            for part in parts
            for name, size in measure_files(folder / part.folder, part.manifest, files_of(part.manifest)).items()
        }
        check_memory(version, sizes, copies, available_bytes())
        cache_bytes = (self._config.filter_cache_mib << 20) // len(parts)
        return [self._open_part(part, folder / part.folder, cache_bytes) for part in parts]

    def _open_part(self, part: Part, folder: Path, cache_bytes: int) -> Catalogue:
        manifest = part.manifest
        vectors = _read_vectors(manifest, folder)
        catalogue = Catalogue(
            manifest,
            _read_items(manifest, folder),
            vectors,
            _open_index(manifest, folder, vectors),
            BitsetCache(cache_bytes),
            _read_lexical(manifest, folder),
            _read_popularity(manifest, folder, part.total_events),
        )
        golden_queries = read_golden_queries(folder, manifest)
        _check_top_items(catalogue, golden_queries)
        _check_recall(catalogue, golden_queries, self._config.max_recall_loss)
        _check_lexical(catalogue)
        return catalogue


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """Returns the paths in a bundle of the files that this service reads."""
    has_lexical = any(name.startswith(f"{LEXICAL}/") for name in manifest.files)
    has_popularity = POPULARITY in manifest.files
    return (*_FILES, *(LEXICAL_FILES if has_lexical else ()), *((POPULARITY,) if has_popularity else ()))


def _read_vectors(manifest: Manifest, folder: Path) -> np.ndarray:
    """Returns the item vectors: [item_count, dimension] float32, unit length, memory-mapped."""
    version = manifest.bundle_version
    vectors = read_contents(
        version, VECTORS, lambda: np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    )
    expected = (manifest.item_count, manifest.dimension)
    if vectors.shape != expected or vectors.dtype != np.float32:
        actual = f"{vectors.dtype} {list(vectors.shape)}"
        message = f"{VECTORS} is {actual}, expected float32 {list(expected)}: not the file of this manifest"
        raise BundleRefused(version, "contents", message)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # [item_count]
    if not (worst := float(np.max(np.abs(lengths - 1.0)))) <= 1e-3:
        raise BundleRefused(version, "contents", f"a vector is {worst:.2e} off unit length, allowed are 1e-03")
    return vectors


def _read_items(manifest: Manifest, folder: Path) -> ItemTable:
    version = manifest.bundle_version
    items = read_contents(version, ITEMS, lambda: ItemTable.read(folder / ITEMS, manifest.attributes))
    if len(items.ids) != manifest.item_count:
        message = f"{ITEMS} has {len(items.ids)} items, the manifest says {manifest.item_count}"
        raise BundleRefused(version, "contents", message)
    return items


def _open_index(manifest: Manifest, folder: Path, vectors: np.ndarray) -> Index:
    version, spec = manifest.bundle_version, manifest.index
    try:
        return open_index(spec.kind, spec.metric, folder / INDEX, vectors)
    except FaissMissing as error:
        raise BundleRefused(version, "index", f"{INDEX} is {spec.kind}: {error}") from error
    except (OSError, ValueError) as error:
        message = f"{INDEX} is not a {spec.kind} index over {VECTORS}: {error}; publish the bundle again"
        raise BundleRefused(version, "index", message) from error


def _read_lexical(manifest: Manifest, folder: Path) -> LexicalIndex | None:
    version = manifest.bundle_version
    if LEXICAL_DESCRIPTION not in manifest.files:
        return None
    try:
        lexical = lexical_files.read(folder)
    except (OSError, ValueError) as error:
        message = f"{LEXICAL} holds no lexical index of this version: {error}; publish the bundle again"
        raise BundleRefused(version, "lexical", message) from error
    if lexical.index.count != manifest.item_count:
        message = f"{LEXICAL} indexes {lexical.index.count} items, the manifest says {manifest.item_count}"
        raise BundleRefused(version, "lexical", f"{message}; publish the bundle again")
    return lexical


def _read_popularity(manifest: Manifest, folder: Path, total_events: int | None) -> Popularity | None:
    version = manifest.bundle_version
    if POPULARITY not in manifest.files:
        return None
    counts = read_contents(version, POPULARITY, lambda: np.load(folder / POPULARITY, allow_pickle=False))
    if counts.shape != (manifest.item_count,) or counts.dtype != np.uint32:
        actual = f"{counts.dtype} {list(counts.shape)}"
        message = f"{POPULARITY} is {actual}, expected uint32 [{manifest.item_count}]: not the file of this manifest"
        raise BundleRefused(version, "contents", message)
    return Popularity.of(counts, total_events)


def _check_lexical(catalogue: Catalogue) -> None:
    """Checks that the golden queries of the lexical index return the published items; no check without that index.

    Raises:
        BundleRefused: gate ``lexical``: a golden query returns other items or scores.
    """
    if catalogue.lexical is not None and (fault := lexical_files.find_fault(catalogue.lexical, catalogue.items.ids)):
        raise BundleRefused(
            catalogue.manifest.bundle_version,
            "lexical",
            f"{LEXICAL}: {fault}; index, items and golden queries do not belong together: publish the bundle again",
        )


def _check_top_items(catalogue: Catalogue, golden_queries: GoldenQueries) -> None:
    """Checks that an exact scan for each golden query returns the published items and scores.

    Raises:
        BundleRefused: gate ``canaries``: a golden query returns other items or scores.
    """
    version, rows = catalogue.manifest.bundle_version, catalogue.items.rows
    for number, (query, expected, expected_scores) in enumerate(
        zip(golden_queries.embeddings, golden_queries.top_items, golden_queries.top_scores, strict=True)
    ):
        unknown = [item for item in expected if item not in rows]
        if unknown or len(set(expected)) != len(expected) or not expected:
            fault = f"no items, duplicate items, or items that the bundle lacks: {unknown[:3]}"
            raise BundleRefused(version, "canaries", f"golden query {number} expects {fault}")
        expected_rows = np.array([rows[item] for item in expected], dtype=np.int64)  # [k]
        _, best_scores = scan(catalogue.vectors, query[np.newaxis], len(expected))[0]
        scores = catalogue.vectors[expected_rows] @ query  # [k]
        # Items whose scores equal the best scores, rank by rank, are the best items, except for swaps among ties.
        for what, reference in (("the exact top items", best_scores), ("the published scores", expected_scores)):
            worst = float(np.max(np.abs(scores - reference)))
            if not worst <= _SCORE_TOLERANCE:
                raise BundleRefused(
                    version,
                    "canaries",
                    f"golden query {number}: scores are {worst:.2e} off {what}, allowed are {_SCORE_TOLERANCE:.0e}; "
                    "vectors, items and golden queries do not belong together",
                )


def _check_recall(catalogue: Catalogue, golden_queries: GoldenQueries, max_loss: float) -> None:
    """Checks that the index has nearly the recall on the golden queries that the manifest states.

    Args:
        catalogue: catalogue whose index is searched.
        golden_queries: golden queries of the bundle.
        max_loss: how far the recall may be below that of the manifest, 0 to 1.

    Raises:
        BundleRefused: gate ``recall``: the recall is lower.
    """
    spec = catalogue.manifest.index
    k = min(RECALL_AT, catalogue.manifest.item_count)
    hit_count = 0
    exact = scan(catalogue.vectors, golden_queries.embeddings, k)
    approximate = catalogue.index.search(golden_queries.embeddings, k, spec.search_budget)
    for (_, exact_scores), (_, scores) in zip(exact, approximate, strict=True):
        hit_count += int(np.count_nonzero(scores >= exact_scores[-1] - _SCORE_TOLERANCE))
    recall, floor = hit_count / (k * len(golden_queries)), spec.recall_at_100 - max_loss
    if recall < floor:
        raise BundleRefused(
            catalogue.manifest.bundle_version,
            "recall",
            f"the index finds {recall:.3f} of the exact {k} nearest items of the golden queries, expected at least "
            f"{floor:.3f}: {spec.recall_at_100:.3f} of the manifest less {max_loss:.3f}; publish the bundle again",
        )
