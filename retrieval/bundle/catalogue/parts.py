"""The parts of a catalogue: one in an ordinary bundle, the shards in a bundle in shards. Reads them as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue import slicing
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS, POPULARITY, VECTORS
from retrieval.bundle.manifest import FORMAT_VERSION, Manifest


@dataclass(frozen=True)
class Part:
    """A catalogue in a folder: that of an ordinary bundle, or one shard.

    Attributes:
        manifest: Manifest of the part, as that of an ordinary bundle. Its files are those in `folder`.
        folder: Path of the folder in the bundle; empty for an ordinary bundle.
        total_events: Number of training events of the whole catalogue; None: that of this part.
    """

    manifest: Manifest
    folder: str = ""
    total_events: int | None = None

    def path(self, name: str) -> str:
        """Returns the path in the bundle of a file of this part, such as ``"shards/shard-00/vectors.npy"``."""
        return f"{self.folder}/{name}" if self.folder else name


def parts_of(manifest: Manifest) -> list[Part]:
    """Returns the parts of the catalogue of a bundle, in the order of the items."""
    if not manifest.shards:
        return [Part(manifest)]
    total = sum(shard.event_count for shard in manifest.shards)
    parts: list[Part] = []
    for shard in manifest.shards:
        start = f"{shard.folder}/"
        own = replace(
            manifest,
            item_count=shard.item_count,
            index=replace(manifest.index, recall_at_100=shard.recall_at_100),
            files={p.removeprefix(start): entry for p, entry in manifest.files.items() if p.startswith(start)},
            shards=(),
            format_version=FORMAT_VERSION,
        )
        parts.append(Part(own, shard.folder, total))
    return parts


def paths_of(manifest: Manifest, *names: str) -> list[str]:
    """Returns the paths in a bundle of files that each part of its catalogue has."""
    return [part.path(name) for part in parts_of(manifest) for name in names]


def read_vectors(folder: Path, manifest: Manifest) -> np.ndarray:
    """Returns the item vectors of a bundle: [item_count, dimension] float32, unit length; mapped if in one part.

    Args:
        folder: folder of the bundle, whose files are verified.
        manifest: manifest of the bundle.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    paths = [folder / path for path in paths_of(manifest, VECTORS)]
    vectors = [np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for path in paths]
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def read_items(folder: Path, manifest: Manifest, attributes: Mapping[str, str]) -> ItemTable:
    """Returns the items of a bundle.

    Args:
        folder: folder of the bundle, whose files are verified.
        manifest: manifest of the bundle.
        attributes: types by name of the attributes to read.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    tables = [ItemTable.read(folder / path, attributes) for path in paths_of(manifest, ITEMS)]
    return tables[0] if len(tables) == 1 else slicing.join(tables)


def read_popularity(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """Returns the number of training events of each item: [item_count] uint32; None if the bundle does not know it.

    Args:
        folder: folder of the bundle, whose files are verified.
        manifest: manifest of the bundle.
    """
    paths = paths_of(manifest, POPULARITY)
    if not manifest.files.keys() >= set(paths):
        return None
    return np.concatenate([np.load(folder / path, allow_pickle=False) for path in paths])
