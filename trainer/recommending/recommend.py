"""Makes the lists of all users with every core, a part at a time, in memory that does not grow with their number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from retrieval.store.store import BundleStore
from retrieval.version import version as program_version
from trainer.errors import RecipeError, RunError
from trainer.progress import SILENT, Progress
from trainer.recipe import loading
from trainer.recommending.hashed_table import HashedTable
from trainer.recommending.histories import Histories
from trainer.recommending.parts import Parts, check_out, claimed_parts
from trainer.recommending.recommender import Recommender
from trainer.recommending.users import Users

LARGEST_K = 10_000
_ROWS_A_PART = 1_600_000
_USERS_A_PART = 16_384
"""A part has at most so many rows and users: 16,384 users at k = 100."""


@dataclass(frozen=True)
class Wanted:
    """What lists to make.

    Attributes:
        users: Table with a row for each user that gets a list. None: every user of the interactions gets one.
        interactions: Table of interactions with the columns of the recipe, from which the histories are made. None: the
            histories are columns of the table of users.
        k: Number of items of a list, 1 to `LARGEST_K`.
        repeats: Whether items that the user knows are listed too. None: as `split.repeats` of the recipe.
        at_s: Time of the requests in seconds since 1970.
        is_at_told: Whether a person told this time; else a run that goes on takes over that of the stopped run.
    """

    users: Path | None
    interactions: Path | None
    k: int
    repeats: bool | None
    at_s: float
    is_at_told: bool


def recommend(
    store: BundleStore, version: str, wanted: Wanted, out: Path, progress: Progress = SILENT
) -> dict[str, Any]:
    """Writes the lists of all users, and returns what was written, as plain values.

    The result is a folder of Parquet files with the columns ``user_id``, ``item_id``, ``rank`` (1 is the best) and
    ``score`` (cosine similarity), in the order of the users, then by rank.

    Args:
        store: Store of the bundle.
        version: Bundle version.
        wanted: What lists to make.
        out: Folder of the result, which must not exist.
        progress: Progress reporter.

    Raises:
        DataError: A table cannot be used; names file, column and row.
        RunError: The result exists, cannot be written, a stopped run made other lists, or a table was written anew
            meanwhile.
        BundleError: The bundle cannot be used.
        RecipeError: The recipe of the bundle cannot be read.
    """
    if wanted.users is None and wanted.interactions is None:
        raise RunError("nobody to recommend to; name a table with --users, or one with --interactions, or both")
    if not 1 <= wanted.k <= LARGEST_K:
        raise RunError(f"--k is {wanted.k}, expected 1 to {LARGEST_K}")
    check_out(out)
    manifest = store.manifest(version)
    try:
        recipe = loading.parse_stored(manifest.recipe, f"the recipe in bundle {version}")
    except RecipeError as error:
        raise RecipeError(f"{error}\nthis trainer did not make the bundle: publish one with `train`") from error
    with progress.working("hashing the tables"):
        users_table, interactions_table = (
            None if path is None else HashedTable(path) for path in (wanted.users, wanted.interactions)
        )
    size = min(_USERS_A_PART, max(1, _ROWS_A_PART // wanted.k))
    identity = {
        "bundle": version,
        "k": wanted.k,
        "repeats": recipe.split.repeats if wanted.repeats is None else wanted.repeats,
        "users": None if users_table is None else users_table.digest,
        "interactions": None if interactions_table is None else interactions_table.digest,
        "program": program_version(),
        "users_a_part": size,
        **({"at": wanted.at_s} if wanted.is_at_told else {}),
    }
    with claimed_parts(out, identity, {"at": wanted.at_s}) as parts:
        thread_count = len(os.sched_getaffinity(0))
        notes: list[str] = []
        with progress.working("reading") as tell:
            tell(f"bundle {version}")
            recommender = Recommender.open(store, version, thread_count)
            histories = None
            if interactions_table is not None:
                tell(str(interactions_table.path))
                histories = Histories.read(recipe, interactions_table.path, notes)
                interactions_table.check()
            users = Users(wanted.users, histories, recipe, recommender.tower.schema, recommender.item_ids)
            if wanted.users is not None:
                tell(str(wanted.users))
            users.check(notes)
        for note in notes:
            progress.note(f"note: {note}")
        if users.missing:
            progress.note(
                f"note: no column holds {', '.join(users.missing)}; these features are missing for all users."
            )
        part_count = -(-users.count // size)
        _check_parts(parts, part_count, progress)
        with progress.counting("recommending", users.count) as advance:
            work = _Work(recommender, users, users_table, parts, wanted.k)
            for count in _in_threads(work, enumerate(users.batches(size)), thread_count):
                advance(count)
        counts = parts.counts(part_count)
        parts.finish()
    _tell(counts, wanted.k, progress)
    return {"out": str(out), "bundle_version": version, "parts": part_count, **counts}


def _check_parts(parts: Parts, part_count: int, progress: Progress) -> None:
    """Reads the parts of a stopped run, and reports how many are kept and which are not."""
    if not parts.there:
        return
    with progress.counting("checking parts that are there", len(parts.there)) as advance:
        damaged = parts.check(advance)
    if damaged:
        progress.note(f"damaged, and computed again: {', '.join(damaged)}.")
    if parts.done:
        progress.note(f"going on after {len(parts.done):,} of {part_count:,} parts of a stopped run.")


class _Work:
    """Makes parts; threads may call it at once."""

    def __init__(self, recommender: Recommender, users: Users, table: HashedTable | None, parts: Parts, k: int) -> None:
        self._recommender, self._users, self._table, self._parts, self._k = recommender, users, table, parts, k

    def __call__(self, number: int, batch: pl.DataFrame) -> int:
        """Writes the part of a batch of users, unless it is there, and returns the number of users."""
        count = batch.height
        if number in self._parts.done:
            return count
        queries = self._users.queries(batch)
        at_s, item_count = self._parts.identity["at"], len(self._recommender.item_ids)
        embeddings, unknown_values = self._recommender.embed(queries.columns, count, at_s)
        left_out = [queries.excluded] if self._parts.identity["repeats"] else [queries.known, queries.excluded]
        owners, rows = (np.concatenate(part) for part in zip(*left_out, strict=True))
        hits = self._recommender.search(embeddings, self._k, _by_owner(owners, rows, count, item_count))
        lengths = np.array([len(each.rows) for each in hits], dtype=np.int64)
        ends = np.cumsum(lengths)
        ranks = np.arange(1, int(ends[-1]) + 1) - np.repeat(ends - lengths, lengths)
        frame = pl.DataFrame(
            {
                "user_id": self._users.ids(batch).gather(np.repeat(np.arange(count), lengths)),
                "item_id": self._recommender.item_id_series.gather(np.concatenate([each.rows for each in hits])),
                "rank": pl.Series(ranks, dtype=pl.Int32),
                "score": pl.Series(np.concatenate([each.scores for each in hits]), dtype=pl.Float32),
            }
        )
        counts = {
            "users": count,
            "rows": frame.height,
            "users_without_history": int(np.count_nonzero(queries.history_lengths == 0)),
            "short_lists": int(np.count_nonzero(lengths < self._k)),
            "unknown_values": unknown_values,
            "left_out": len(rows),
            "left_out_unknown": int(np.count_nonzero(rows < 0)),
        }
        if self._table is not None:
            self._table.check()  # the batch was read before, so no part is of another table
        self._parts.write(number, frame, counts)
        return count


def _by_owner(owners: np.ndarray, rows: np.ndarray, count: int, item_count: int) -> list[np.ndarray]:
    """Returns the distinct rows of each owner, ascending: `count` arrays of [m] int64. Rows below 0 are left out.

    Args:
        owners: [n] int64, 0 to `count` - 1.
        rows: [n] int64, item rows, or -1.
        count: Number of owners.
        item_count: Number of items.
    """
    keys = np.unique(owners[rows >= 0] * item_count + rows[rows >= 0])
    owners, rows = np.divmod(keys, item_count)
    bounds = np.searchsorted(owners, np.arange(count + 1)).tolist()
    return [rows[start:end] for start, end in pairwise(bounds)]


def _in_threads(work: _Work, batches: Iterable[tuple[int, pl.DataFrame]], thread_count: int) -> Iterator[int]:
    """Yields what `work` returns for each batch, in order; holds as many batches at once as there are threads, and one.

    Each thread works on batches of its own, so the numeric libraries get one thread each.
    """
    pending: deque[Future[int]] = deque()
    with ThreadPoolExecutor(thread_count, "recommend", initializer=lambda: threadpool_limits(1)) as threads:
        try:
            for number, batch in batches:
                pending.append(threads.submit(work, number, batch))
                if len(pending) > thread_count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _tell(counts: dict[str, int], k: int, progress: Progress) -> None:
    """Reports what a reader of the lists may not expect."""
    c = {name: f"{count:,}" for name, count in counts.items()}
    notes = {
        "users_without_history": f"{c['users_without_history']} of {c['users']} users have no history; their lists "
        "come from their other features alone.",
        "unknown_values": f"{c['unknown_values']} values are in no vocabulary of the model, such as items without "
        "training events; the query tower reads them as unknown.",
        "left_out_unknown": f"{c['left_out_unknown']} of {c['left_out']} items to leave out are not in the catalogue.",
        "short_lists": f"{c['short_lists']} lists have fewer than {k:,} items: no more of the catalogue are left.",
    }
    for name, note in notes.items():
        if counts[name]:
            progress.note(f"note: {note}")
