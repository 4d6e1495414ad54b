"""The right answers of a catalogue in shards, of all shards and of some, and the judge of a service's answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ann_service.shards.shard import Shard
from retrieval.bundle.manifest import Manifest
from retrieval.index.scan import scan
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb

K = 100
TOLERANCE = 1e-5
"""Scores that differ by no more are equal: matrices of another size are multiplied, and Annoy rounds."""

_PREFIX = "item-"
_DIGITS = 4


@dataclass(frozen=True)
class Question:
    """A search for the `K` nearest items.

    Attributes:
        query: Row of its vector among the queries.
        exact: Whether the nearest items are asked for, or those that the index finds.
    """

    query: int
    exact: bool


@dataclass(frozen=True, eq=False)
class Nearest:
    """Items of one or of several shards, best first.

    Attributes:
        rows: [n] int64, rows of the items in the catalogue.
        scores: [n] float32, their scores.
    """

    rows: np.ndarray
    scores: np.ndarray


def item_row(item_id: str) -> int:
    """Returns the row in the catalogue of an item of `testbed.shards.bundles`."""
    return int(item_id.removeprefix(_PREFIX))


@dataclass(eq=False)
class Reference:
    """The right answers of one bundle: what each shard finds alone, merged here by score with NumPy.

    Attributes:
        version: Version of the bundle.
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] float32, unit length.
        ends: [shards] int64, row after the last item of each shard.
        budget: Search budget of searches by index in each shard; None: that of the bundle.
        of_shards: For exact searches (True) and others (False), for each query what each shard finds alone.
    """

    version: str
    vectors: np.ndarray
    queries: np.ndarray
    ends: np.ndarray
    budget: int | None
    of_shards: dict[bool, list[list[Nearest]]]
    _merged: dict[tuple[Question, tuple[int, ...]], Nearest] = field(
        default_factory=dict[tuple[Question, tuple[int, ...]], Nearest]
    )

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        vectors: np.ndarray,
        queries: np.ndarray,
        shards: Sequence[Shard],
        budget: int | None = None,
    ) -> Reference:
        """Works out the right answers.

        Args:
            manifest: manifest of the bundle.
            vectors: [item_count, dimension] float32, unit length.
            queries: [n, dimension] float32, unit length.
            shards: its open shards. They are asked one query at a time, for what their indexes find.
            budget: search budget of searches by index in each shard; None: that of the bundle.
        """
        ends = np.cumsum([shard.item_count for shard in manifest.shards])
        exact = [
            [Nearest(start + hits.rows, hits.scores) for hits in scan(vectors[start:end], queries, K)]
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]
        found = [[_ask(shard, to_search(query, False, budget)) for query in queries] for shard in shards]
        by_query = {
            is_exact: [list(of_query) for of_query in zip(*each, strict=True)]
            for is_exact, each in ((True, exact), (False, found))
        }
        return cls(manifest.bundle_version, vectors, queries, ends, budget, by_query)

    def to_search(self, question: Question) -> pb.Search:
        """Returns the search that asks a question."""
        return to_search(self.queries[question.query], question.exact, self.budget)

    def merged(self, question: Question, shards: Sequence[int]) -> Nearest:
        """Returns the right answer of some shards."""
        key = question, tuple(shards)
        if key not in self._merged:
            parts = [self.of_shards[question.exact][question.query][shard] for shard in shards]
            rows = np.concatenate([part.rows for part in parts])
            scores = np.concatenate([part.scores for part in parts])
            order = np.lexsort((rows, -scores))[:K]
            self._merged[key] = Nearest(rows[order], scores[order])
        return self._merged[key]

    def every_shard(self) -> tuple[int, ...]:
        """Returns the numbers of all shards."""
        return tuple(range(len(self.ends)))

    def fault(self, question: Question, result: pb.SearchResult, coverage: float) -> str | None:
        """Returns what is wrong with an answer; None if it is right.

        It is right if its items are in shards that hold the share of the catalogue which it names, have their scores in
        this bundle, and are no worse than what these shards find alone. So an answer that lacks a shard and does not
        say so is wrong, and so is one with an item of another bundle. Searches of several callers may share an exact
        scan, which finds no worse items than the index; they are never better than the nearest.

        Args:
            question: what was asked.
            result: the answer.
            coverage: share of the items that the answer says it covers.
        """
        rows = np.array([item_row(item_id) for item_id in result.item_ids], dtype=np.int64)
        scores = np.array(result.scores, dtype=np.float32)
        if len(set(rows.tolist())) != len(rows) or len(rows) != min(K, len(self.vectors)):
            return f"{len(set(rows.tolist()))} different items, expected {K}"
        if rows.max() >= len(self.vectors):
            return f"item {rows.max()} is not in bundle {self.version}"
        off = np.abs(self.vectors[rows] @ self.queries[question.query] - scores)
        if not off.max() <= TOLERANCE:
            return f"the score of item {rows[off.argmax()]} is {off.max():.2g} off in bundle {self.version}"
        owners = np.searchsorted(self.ends, rows, side="right")
        nearest = Question(question.query, True)
        for shards in self._holding(coverage):
            least, most = self.merged(question, shards).scores, self.merged(nearest, shards).scores
            is_own = np.isin(owners, shards).all()
            if is_own and np.all(scores >= least - TOLERANCE) and np.all(scores <= most + TOLERANCE):
                return None
        return f"not what shards with {coverage:.4f} of the items find"

    def _holding(self, coverage: float) -> list[tuple[int, ...]]:
        """Returns the sets of shards that hold a share of the items."""
        counts = np.diff(self.ends, prepend=0)
        sets = [each for size in range(1, len(counts) + 1) for each in itertools.combinations(self.every_shard(), size)]
        return [
            each for each in sets if round(float(counts[list(each)].sum() / self.ends[-1] - coverage), _DIGITS) == 0.0
        ]


def to_search(query: np.ndarray, exact: bool, budget: int | None = None) -> pb.Search:
    """Returns the search for the `K` items nearest to a query, with the bundle's search budget unless one is given."""
    search = pb.Search(embedding=pb.Embedding(values=query), k=K, exact=exact)
    if budget is not None:
        search.search_budget = budget
    return search


def _ask(shard: Shard, search: pb.Search) -> Nearest:
    body = pb.SearchItemsRequest(searches=[search]).SerializeToString()
    [result] = pb.SearchItemsResponse.FromString(run_to_end(shard.search(body))).results
    rows = np.array([item_row(item_id) for item_id in result.item_ids], dtype=np.int64)
    return Nearest(rows, np.array(result.scores, dtype=np.float32))
