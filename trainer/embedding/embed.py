"""Embeds the items table of a bundle's recipe in slices, resumably.

```
files ─► inspect ─► check all slices ─► plan.json ─► embed each slice ─► parts ─► embeddings.json
                    (cells, double ids)              (those that are missing)
```
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.bundle.manifest import Manifest
from trainer.embedding import double_ids, items_table, results
from trainer.embedding.engine import Engine
from trainer.embedding.items_table import ItemFile
from trainer.embedding.places import Found, Place, open_place
from trainer.embedding.plan import (
    Plan,
    installed_packages,
    model_differences,
    model_digest,
    package_differences,
    with_files_of_today,
)
from trainer.embedding.results import Part
from trainer.embedding.tasks import Checked, Fault, Job, items_source
from trainer.errors import DataError, RunError
from trainer.progress import Progress

_SHOWN_FAULTS = 10
"""Number of slices with bad rows after which the check ends."""


@dataclass(frozen=True)
class Done:
    """What was done.

    Attributes:
        plan: What the folder of vectors is made of.
        part_count: Number of parts.
        computed: Number of parts that were computed now; the others were there.
        damaged: Number of these that were there, but damaged.
    """

    plan: Plan
    part_count: int
    computed: int
    damaged: int


def embed_items(
    store: str,
    manifest: Manifest,
    items: str,
    to: str,
    *,
    slice_rows: int,
    open_engine: Callable[[Job], Engine],
    progress: Progress,
) -> Done:
    """Embeds all rows of an items table, and writes their vectors; what is there of the same work is kept.

    Args:
        store: Path or URL of the store of the bundle, as all machines can open it.
        manifest: Manifest of the bundle whose item tower embeds.
        items: Path or URL of the items table: a Parquet file, or a folder of them.
        to: Path or URL of the folder of vectors.
        slice_rows: Largest number of rows of a slice, at least 1.
        open_engine: Opens what runs the tasks.
        progress: Receives the progress.

    Raises:
        DataError: A row or an id cannot be used, or the folder holds vectors of something else, or the table.
        RunError: The recipe has no items table, or the processes cannot go on; what is done stays.
        StoreError: The bundle, the items table or the folder cannot be read or written.
    """
    items_source(manifest)
    table, found, location = items_table.open_table(items)
    target = open_place(to)
    if _is_same(location, target):
        raise DataError(f"--to is {to}, the folder of the items table itself; name another folder for the vectors")
    job = Job(store, manifest.bundle_version, table.name, target.name, installed_packages())
    written = target.find(results.PLAN)
    if written is None and target.list(results.PARTS):
        raise DataError(
            f"{target.name} holds parts without {results.PLAN}; name another folder with --to, or remove this one"
        )
    with _opened(open_engine(job)) as engine:
        if written is None:
            plan = _make_plan(engine, job, manifest, location, found, slice_rows, progress)
            if not target.create(results.PLAN, plan.to_json()):
                written = target.find(results.PLAN)  # another process was first
        if written is not None:
            plan = Plan.from_json(target.read(results.PLAN), f"{target.name}/{results.PLAN}")
            plan = _same_plan(engine, plan, job, manifest, found, slice_rows, target)
        for note in plan.notes:
            progress.note(f"note: {note}")
        return _embed(engine, plan, target, progress)


def _is_same(items: str, target: Place) -> bool:
    if target.is_bucket:
        return items.rstrip("/") == target.name.rstrip("/")
    return os.path.realpath(items) == os.path.realpath(target.name)


def _make_plan(
    engine: Engine,
    job: Job,
    manifest: Manifest,
    items: str,
    found: Sequence[Found],
    slice_rows: int,
    progress: Progress,
) -> Plan:
    """Returns the plan of new vectors after checking all rows. Raises DataError if a row or an id cannot be used."""
    files: list[ItemFile | None] = [None] * len(found)
    with progress.working("reading the items table") as tell:
        tell(f"{len(found):,} files")
        for number, file in _gather(engine, "inspect", found, items):
            files[number] = file
    plan = Plan(
        bundle_version=manifest.bundle_version,
        model=model_digest(manifest),
        dimension=manifest.dimension,
        packages=dict(job.packages),
        items=items,
        slice_rows=slice_rows,
        files=tuple(file for file in files if file is not None),
        notes=(),
    )
    if not plan.row_count:
        raise DataError(f"{items}: its {len(found):,} files have no rows")
    pieces = list(plan.slices())
    starts = np.cumsum([0, *map(len, pieces)])
    hashes = np.empty(plan.row_count, dtype=np.uint64)
    notes: dict[tuple[str, str], dict[int, str]] = {}
    with progress.counting("checking rows", plan.row_count) as advance:
        for number, checked in _gather(engine, "check", pieces, items):
            result: Checked = checked
            hashes[starts[number] : starts[number + 1]] = result.hashes
            for key, note in result.notes.items():
                notes.setdefault(key, {})[number] = note
            advance(len(pieces[number]))
    suspects = double_ids.repeated(hashes)
    if suspects.size:
        few = frozenset(suspects[: double_ids.MOST_LOCATED].tolist())
        located = _gather(engine, "locate", [(piece, few) for piece in pieces], items)
        double_ids.refuse(items, suspects.size, [each for _, of_piece in sorted(located) for each in of_piece])
    return dataclasses.replace(plan, notes=tuple(_summary(of_key, len(pieces)) for _, of_key in sorted(notes.items())))


def _summary(notes: dict[int, str], piece_count: int) -> str:
    """Returns a note of the first slice that has it, and in how many slices it was made if not in all."""
    first = notes[min(notes)]
    return first if len(notes) == piece_count else f"{first} So in {len(notes):,} of {piece_count:,} slices."


def _same_plan(
    engine: Engine, plan: Plan, job: Job, manifest: Manifest, found: Sequence[Found], slice_rows: int, to: Place
) -> Plan:
    """Returns the plan with the files of today. Raises DataError if it is about something else."""
    differing = model_differences(plan, manifest)
    differing += package_differences(plan.packages, dict(job.packages))
    if plan.slice_rows != slice_rows:
        differing.append(f"they are in slices of {plan.slice_rows:,} rows, not of {slice_rows:,} (--slice-rows)")
    refreshed, changed = with_files_of_today(
        plan, found, lambda files: dict(_gather(engine, "digest", files, plan.items))
    )
    differing += changed
    if differing:
        shown = "; ".join(sorted(differing)[:5]) + (f"; and {len(differing) - 5:,} more" if len(differing) > 5 else "")
        raise DataError(
            f"{to.name} holds vectors of something else: {shown}. Name another folder with --to, or remove this one"
        )
    return refreshed


def _embed(engine: Engine, plan: Plan, to: Place, progress: Progress) -> Done:
    """Computes the parts that are missing, and writes the list of all."""
    pieces = list(plan.slices())
    there = results.find_parts(to)
    kept: set[int] = set()
    damaged = 0
    with progress.counting("checking parts that are there", len(there)) as advance:
        for number, is_whole in _gather(engine, "is_whole", there, to.name):
            if is_whole:
                kept.add(there[number].number)
            else:
                damaged += 1
                to.remove(there[number].name)
            advance(1)
    missing = [piece for piece in pieces if piece.number not in kept]
    if damaged:
        progress.note(f"{damaged:,} parts were damaged, and are computed again")
    if kept:
        progress.note(f"{len(pieces) - len(missing):,} of {len(pieces):,} parts are there already")
    with progress.counting("embedding items", plan.row_count) as advance:
        advance(plan.row_count - sum(map(len, missing)))
        for _, count in _gather(engine, "embed", missing, plan.items):
            advance(count)
    parts: dict[int, Part] = {}
    for part in results.find_parts(to):
        parts.setdefault(part.number, part)
    absent = [piece.number for piece in pieces if piece.number not in parts]
    if absent:
        raise RunError(
            f"{len(absent):,} parts are not in {to.name}, such as number {absent[0]}, although they were written: a "
            "folder has to be the same one on all machines; else name a URL with --to"
        )
    results.write_list(to, [parts[piece.number] for piece in pieces])
    return Done(plan, len(pieces), len(missing), damaged)


@contextmanager
def _opened(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.close()


def _gather(engine: Engine, task: str, arguments: Collection[Any], what: str) -> Iterator[tuple[int, Any]]:
    """Yields positions and results of a task in any order, and raises what is wrong with several slices at once."""
    faults: list[tuple[int, str]] = []
    for number, result in engine.run(task, list(arguments)) if arguments else ():
        if not isinstance(result, Fault):
            yield number, result
        elif result.is_data:
            faults.append((number, result.message))
            if len(faults) == _SHOWN_FAULTS:
                break
        else:
            raise RunError(result.message)
    if faults:
        more = " (there may be more)" if len(faults) == _SHOWN_FAULTS else ""
        raise DataError(f"{what} cannot be used{more}:\n" + "\n".join(message for _, message in sorted(faults)))
