"""The work on one file or slice, in a process of any machine: the same for every engine.

Each process opens the bundle once, from the store or from the copies of it that the machine keeps, and computes on one
thread, so that the bytes do not depend on the number of its cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.bundle.errors import BundleError, StoreError
from retrieval.bundle.manifest import Manifest
from retrieval.store.location import open_store
from retrieval.store.store import BundleStore
from trainer.embedding import items_table, results
from trainer.embedding.items_table import ItemFile, Slice
from trainer.embedding.places import Found, open_place
from trainer.embedding.plan import installed_packages, package_differences, tower_files
from trainer.embedding.results import Part
from trainer.errors import DataError, RunError, TrainerError
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID
from trainer.recipe.tables import Items

if TYPE_CHECKING:  # imports TensorFlow, which only the task that embeds needs
    from trainer.embedding.item_tower import ItemTower


_PAUSES_S = (2.0, 10.0, 30.0)
"""Times in seconds after which a task whose bucket fails is tried again, each beside the retries of each request."""


@dataclass(frozen=True)
class Job:
    """What the processes need to know.

    Attributes:
        store: Path or URL of the store, valid on every machine.
        bundle_version: Bundle whose item tower embeds.
        items: Path or URL of the place of the items table.
        to: Path or URL of the folder of vectors.
        packages: Versions of packages that every machine has to have, by name.
    """

    store: str
    bundle_version: str
    items: str
    to: str
    packages: Mapping[str, str]


@dataclass(frozen=True)
class Checked:
    """What a check of a slice found.

    Attributes:
        hashes: [rows] uint64, hashes of the ids.
        notes: Sentences about cells that were read other than they are written, by column and by what was read so.
    """

    hashes: np.ndarray
    notes: dict[tuple[str, str], str]


@dataclass(frozen=True)
class Fault:
    """Why a task could not be done.

    Attributes:
        message: Reason, for a person.
        is_data: Whether it is about the items table; else no other task can be done either.
    """

    message: str
    is_data: bool


def run(job: Job, task: str, argument: Any) -> Any:
    """Returns the result of the named task, or a `Fault`.

    Args:
        job: The job.
        task: Name in `TASKS`.
        argument: Argument of the task.
    """
    try:
        if differing := package_differences(dict(job.packages), installed_packages()):
            raise RunError(
                f"machine {os.uname().nodename} has other packages, which may give other bytes: "
                f"{', '.join(differing)}; install the same on all machines"
            )
        return _patiently(job, TASKS[task], argument)
    except DataError as error:
        return Fault(str(error), is_data=True)
    except (TrainerError, BundleError) as error:
        return Fault(str(error), is_data=False)


def _patiently(job: Job, task: Callable[[Job, Any], Any], argument: Any) -> Any:
    """Returns the result of a task; while a bucket fails, as one that throttles many machines, it is tried again."""
    places = (job.store, job.items, job.to)
    for pause_s in _PAUSES_S if any("://" in place for place in places) else ():
        try:
            return task(job, argument)
        except StoreError:
            time.sleep(pause_s)
    return task(job, argument)


def inspect(job: Job, found: Found) -> ItemFile:
    """Returns a file of the items table with its number of rows and its digest."""
    return items_table.inspect(open_place(job.items), found, _bundle(job.store, job.bundle_version)[2])


def digest(job: Job, found: Found) -> str:
    """Returns what identifies the content of a file of the items table."""
    return items_table.digest_of(open_place(job.items), found)


def check(job: Job, piece: Slice) -> Checked:
    """Checks all cells of a slice that the recipe names."""
    source = _bundle(job.store, job.bundle_version)[2]
    items, notes = items_table.read_rows(open_place(job.items), piece, source, source.attributes)
    hashes = np.fromiter(map(items_table.hash_id, items.ids), np.uint64, len(items.ids))
    return Checked(hashes, notes)


def locate(job: Job, argument: tuple[Slice, frozenset[int]]) -> list[tuple[str, str]]:
    """Returns id and place, such as ``"part-3.parquet, row 12"``, of each item of a slice whose hash is in a set."""
    piece, hashes = argument
    source = _bundle(job.store, job.bundle_version)[2]
    items, _ = items_table.read_rows(open_place(job.items), piece, source, {})
    return [
        (item_id, f"{piece.file.name}, row {piece.start + row + 1}")
        for row, item_id in enumerate(items.ids)
        if items_table.hash_id(item_id) in hashes
    ]


def embed(job: Job, piece: Slice) -> int:
    """Embeds the items of a slice, writes their part, and returns their number."""
    source = _bundle(job.store, job.bundle_version)[2]
    tower = _tower(job.store, job.bundle_version)
    read = {name: source.attributes[name] for name in tower.features if name != ITEM_ID}
    items, _ = items_table.read_rows(open_place(job.items), piece, source, read)
    count = len(piece)
    columns = {
        name: list(items.ids) if name == ITEM_ID else [items.attributes[name].at(row) for row in range(count)]
        for name in tower.features
    }
    results.write_part(open_place(job.to), piece.number, list(items.ids), tower.embed(columns, count))
    return count


def is_whole(job: Job, part: Part) -> bool:
    """Returns whether the bytes of a part are those that were written."""
    return results.is_whole(open_place(job.to), part)


TASKS: dict[str, Callable[[Job, Any], Any]] = {
    task.__name__: task for task in (inspect, digest, check, locate, embed, is_whole)
}
"""Tasks by name."""


def items_source(manifest: Manifest) -> Items:
    """Returns how the recipe of a bundle reads an items table.

    Raises:
        RunError: The recipe has no items table, or this trainer did not make the bundle.
    """
    recipe = loading.parse_stored(manifest.recipe, f"the recipe in bundle {manifest.bundle_version}")
    if recipe.items is None:
        raise RunError(
            f"the recipe of bundle {manifest.bundle_version} has no [items] table, so its item tower cannot embed an "
            "items table; train with one"
        )
    return recipe.items


@lru_cache(maxsize=1)
def _bundle(store: str, version: str) -> tuple[BundleStore, Manifest, Items]:
    opened = open_store(store)
    manifest = opened.manifest(version)
    return opened, manifest, items_source(manifest)


@lru_cache(maxsize=1)
def _tower(store: str, version: str) -> ItemTower:
    # The same values as in `python -m trainer`. TensorFlow reads them when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    from trainer.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from trainer.embedding.item_tower import ItemTower

    opened, manifest, _ = _bundle(store, version)
    opened.verify(version, tower_files(manifest))
    return ItemTower(opened.path(version), manifest)
