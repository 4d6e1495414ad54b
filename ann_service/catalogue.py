"""Opening the item side of a bundle: the gates, and what a search needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ann_service.bitsets import BitsetCache
from ann_service.config import AnnConfig
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, INDEX, ITEMS, LEXICAL, LEXICAL_DESCRIPTION, LEXICAL_FILES, VECTORS
from retrieval.bundle.manifest import Manifest
from retrieval.index.errors import FaissMissing
from retrieval.index.lexical import files as lexical_files
from retrieval.index.lexical.files import LexicalIndex
from retrieval.index.registry import Index, open_index
from retrieval.index.scan import scan
from retrieval.serving.bundles.verification import available_bytes, check_memory, read_contents, read_golden_queries
from retrieval.store.store import BundleStore

FILES = (VECTORS, INDEX, ITEMS, GOLDEN_QUERIES)
"""What this service reads of every bundle."""

SCORE_TOLERANCE = 1e-5
"""Scores closer than this are a tie: the publisher may have ordered them the other way round."""

_RECALL_AT = 100


@dataclass(frozen=True, eq=False)
class Catalogue:
    """An open bundle. Immutable.

    Attributes:
        manifest: of the bundle.
        items: ids and attributes; row i is row i of `vectors`.
        vectors: [item_count, dimension] float32, unit length, memory-mapped.
        index: over `vectors`.
        filters: what filters let through, cached.
        lexical: over words of the items; None where the bundle has none.
    """

    manifest: Manifest
    items: ItemTable
    vectors: np.ndarray
    index: Index
    filters: BitsetCache = field(default_factory=lambda: BitsetCache(0))
    lexical: LexicalIndex | None = None

    def default_budget(self, k: int) -> int:
        """Returns the search budget that has, for `k` items, the recall that the publisher measured for 100."""
        return self.index.raise_budget(self.manifest.index.search_budget, _RECALL_AT, max(k, _RECALL_AT))


class CatalogueLoader:
    """Opens catalogues."""

    def __init__(self, store: BundleStore, config: AnnConfig) -> None:
        """Takes where the bundles are, and the settings."""
        self._store = store
        self._config = config

    def open(self, version: str, beside: Collection[str]) -> Catalogue:
        """Returns the catalogue of a bundle, verified and warm.

        Args:
            version: of the bundle.
            beside: bundles that are open meanwhile.

        Raises:
            BundleError: a gate refused it: those of `retrieval.serving.bundles.verification`, ``index`` where the index is not one over
                these vectors, ``recall``, or ``lexical`` where words are not found as published.
        """
        manifest = self._store.manifest(version)
        files = files_of(manifest)
        if not manifest.files.keys() >= set(files):
            self._store.verify(version, files)  # says which are not listed
        # Before the hash pass: reading what does not fit would push the running bundle out of memory.
        check_memory(manifest, files, 1 if beside or self._config.unload_first else 2, available_bytes())
        self._store.verify(version, files)
        catalogue = self._read(manifest)
        golden_queries = read_golden_queries(self._store, manifest)
        _check_top_items(catalogue, golden_queries)
        _check_recall(catalogue, golden_queries, self._config.max_recall_loss)
        _check_words(catalogue)
        return catalogue

    def _read(self, manifest: Manifest) -> Catalogue:
        version = manifest.bundle_version
        folder = self._store.path(version)
        spec = manifest.index
        vectors = read_contents(
            version, VECTORS, lambda: np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        )
        expected = (manifest.item_count, manifest.dimension)
        if vectors.shape != expected or vectors.dtype != np.float32:
            found = f"{vectors.dtype} {list(vectors.shape)}"
            message = f"{VECTORS} is {found}, expected float32 {list(expected)}: not the file of this manifest"
            raise BundleRefused(version, "contents", message)
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # [item_count]
        if not (worst := float(np.max(np.abs(lengths - 1.0)))) <= 1e-3:
            raise BundleRefused(version, "contents", f"a vector is {worst:.2e} off unit length, allowed are 1e-03")
        items = read_contents(version, ITEMS, lambda: ItemTable.read(folder / ITEMS, manifest.attributes))
        if len(items.ids) != manifest.item_count:
            message = f"{ITEMS} has {len(items.ids)} items, the manifest says {manifest.item_count}"
            raise BundleRefused(version, "contents", message)
        try:
            index = open_index(spec.kind, spec.metric, folder / INDEX, vectors)
        except FaissMissing as error:
            raise BundleRefused(version, "index", f"{INDEX} is {spec.kind}: {error}") from error
        except (OSError, ValueError) as error:
            message = f"{INDEX} is no {spec.kind} index over {VECTORS}: {error}; publish the bundle again"
            raise BundleRefused(version, "index", message) from error
        cache = BitsetCache(self._config.filter_cache_mib << 20)
        return Catalogue(manifest, items, vectors, index, cache, _read_lexical(manifest, folder))


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """Returns what this service reads of a bundle."""
    has_words = any(name.startswith(f"{LEXICAL}/") for name in manifest.files)
    return (*FILES, *LEXICAL_FILES) if has_words else FILES


def _read_lexical(manifest: Manifest, folder: Path) -> LexicalIndex | None:
    version = manifest.bundle_version
    if LEXICAL_DESCRIPTION not in manifest.files:
        return None
    try:
        found = lexical_files.read(folder)
    except (OSError, ValueError) as error:
        message = f"{LEXICAL} holds no lexical index of this version: {error}; publish the bundle again"
        raise BundleRefused(version, "lexical", message) from error
    if found.index.count != manifest.item_count:
        message = f"{LEXICAL} indexes {found.index.count} items, the manifest says {manifest.item_count}"
        raise BundleRefused(version, "lexical", f"{message}; publish the bundle again")
    return found


def _check_words(catalogue: Catalogue) -> None:
    if catalogue.lexical is not None and (fault := lexical_files.find_fault(catalogue.lexical, catalogue.items.ids)):
        raise BundleRefused(
            catalogue.manifest.bundle_version,
            "lexical",
            f"{LEXICAL}: {fault}; index, items and golden queries do not belong together: publish the bundle again",
        )


def _check_top_items(catalogue: Catalogue, golden_queries: GoldenQueries) -> None:
    version, rows = catalogue.manifest.bundle_version, catalogue.items.rows
    for number, (query, expected, expected_scores) in enumerate(
        zip(golden_queries.embeddings, golden_queries.top_items, golden_queries.top_scores, strict=True)
    ):
        unknown = [item for item in expected if item not in rows]
        if unknown or len(set(expected)) != len(expected) or not expected:
            message = f"golden query {number} expects items that the bundle lacks, or twice: {unknown[:3]}"
            raise BundleRefused(version, "canaries", message)
        expected_rows = np.array([rows[item] for item in expected], dtype=np.int64)  # [k]
        _, best_scores = scan(catalogue.vectors, query[np.newaxis], len(expected))[0]
        found_scores = catalogue.vectors[expected_rows] @ query  # [k]
        # Equal to the best scores, position by position: then they are the best, but for swaps among ties.
        for what, reference in (("the exact top items", best_scores), ("the published scores", expected_scores)):
            worst = float(np.max(np.abs(found_scores - reference)))
            if not worst <= SCORE_TOLERANCE:
                raise BundleRefused(
                    version,
                    "canaries",
                    f"golden query {number}: scores are {worst:.2e} off {what}, allowed are {SCORE_TOLERANCE:.0e}; "
                    "vectors, items and golden queries do not belong together",
                )


def _check_recall(catalogue: Catalogue, golden_queries: GoldenQueries, max_loss: float) -> None:
    spec = catalogue.manifest.index
    k = min(_RECALL_AT, catalogue.manifest.item_count)
    found = 0
    exact = scan(catalogue.vectors, golden_queries.embeddings, k)
    approximate = catalogue.index.search(golden_queries.embeddings, k, spec.search_budget)
    for (_, exact_scores), (_, scores) in zip(exact, approximate, strict=True):
        found += int(np.count_nonzero(scores >= exact_scores[-1] - SCORE_TOLERANCE))
    recall, floor = found / (k * len(golden_queries)), spec.recall_at_100 - max_loss
    if recall < floor:
        raise BundleRefused(
            catalogue.manifest.bundle_version,
            "recall",
            f"the index finds {recall:.3f} of the exact {k} nearest items of the golden queries, expected at least "
            f"{floor:.3f}: {spec.recall_at_100:.3f} of the manifest less {max_loss:.3f}; publish the bundle again",
        )
