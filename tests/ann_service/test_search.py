"""Searches against brute force, on a catalogue that the index answers and on a small one that is scanned."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ann_service.bitsets import Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.search import run
from retrieval.index.annoy_index import AnnoyIndex
from retrieval.index.hits import Hits
from tests.worlds import build_index, item_table, unit_vectors

_FOLDER = TemporaryDirectory()


@cache
def catalogue(item_count: int) -> Catalogue:
    vectors = unit_vectors(item_count, 5)
    vectors[7] = vectors[3]  # a tie
    path = Path(_FOLDER.name) / f"{item_count}.ann"
    build_index(vectors, path)
    manifest: Any = SimpleNamespace(item_count=item_count)
    return Catalogue(manifest, item_table(item_count), vectors, AnnoyIndex(path, vectors))


def plan(item_count: int, seed: int, **fields: Any) -> SearchPlan:
    query = unit_vectors(1, seed + 1000)[0]
    defaults: dict[str, Any] = {"k": 10, "allowed": None, "min_score": None, "exact": False, "budget": 3000}
    excluded = np.array(sorted(fields.pop("excluded", [])), dtype=np.int64)
    mask = fields.get("allowed")
    if mask is not None:
        fields["allowed"] = Matches.of(pack(mask), item_count, with_rows=True)
    return SearchPlan(**{"query": query, **defaults, "excluded": excluded, **fields})


def find(where: Catalogue, search: SearchPlan) -> Hits:
    return run(where, [search])[0]


def brute_force(where: Catalogue, search: SearchPlan) -> list[int]:
    """Returns the allowed rows sorted by score, then row, in plain Python."""
    scores = [float(np.dot(vector.astype(np.float64), search.query)) for vector in where.vectors]
    filtered = None if search.allowed is None else set(search.allowed.rows.tolist())
    allowed = [row for row in range(len(scores)) if filtered is None or row in filtered]
    allowed = [row for row in allowed if row not in set(search.excluded.tolist())]
    if search.min_score is not None:
        allowed = [row for row in allowed if scores[row] >= search.min_score]
    return sorted(allowed, key=lambda row: (-scores[row], row))[: search.k]


def check_hits(where: Catalogue, search: SearchPlan, rows: np.ndarray, scores: np.ndarray) -> None:
    assert len(set(rows.tolist())) == len(rows)
    assert not set(rows.tolist()) & set(search.excluded.tolist())
    assert search.allowed is None or search.allowed.contains(rows).all()
    assert search.min_score is None or (scores >= search.min_score).all()
    np.testing.assert_allclose(scores, where.vectors[rows] @ search.query, atol=1e-6)
    order = list(zip((-scores).tolist(), rows.tolist(), strict=True))
    assert order == sorted(order)


searches = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 50),
        "k": st.integers(1, 300),
        "share": st.none() | st.sampled_from([0.0, 0.001, 0.05, 0.5, 0.95]),
        "excluded": st.sets(st.integers(0, 299), max_size=40),
        "min_score": st.none() | st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0]),
        "exact": st.booleans(),
        "budget": st.sampled_from([1, 100, 3000]),
    }
)


@pytest.mark.parametrize("item_count", [1, 300, 5000])
@settings(max_examples=60)
@given(drawn=searches)
def test_returns_k_allowed_items_in_order_if_k_match(item_count: int, drawn: dict[str, Any]) -> None:
    where = catalogue(item_count) if item_count > 7 else small_catalogue()
    share = drawn["share"]
    allowed = None if share is None else np.random.default_rng(drawn["seed"]).random(item_count) < share
    search = plan(
        item_count,
        drawn["seed"],
        k=drawn["k"],
        allowed=allowed,
        excluded={row for row in drawn["excluded"] if row < item_count},
        min_score=drawn["min_score"],
        exact=drawn["exact"],
        budget=drawn["budget"],
    )
    rows, scores = find(where, search)
    check_hits(where, search, rows, scores)
    expected = brute_force(where, search)
    assert len(rows) == len(expected)
    restricted = allowed is not None or any(row < item_count for row in drawn["excluded"])
    if drawn["exact"] or (restricted and item_count <= 2000):
        # Equal, except for neighbours whose scores float32 cannot tell apart.
        np.testing.assert_allclose(scores, where.vectors[expected] @ search.query, atol=1e-6)


@cache
def small_catalogue() -> Catalogue:
    vectors = unit_vectors(1, 5)
    path = Path(_FOLDER.name) / "1.ann"
    build_index(vectors, path)
    manifest: Any = SimpleNamespace(item_count=1)
    return Catalogue(manifest, item_table(1), vectors, AnnoyIndex(path, vectors))


def test_ties_go_to_the_smaller_row() -> None:
    where = catalogue(300)
    search = plan(300, 0, query=where.vectors[3], k=2)
    assert find(where, search)[0].tolist() == [3, 7]
    assert find(where, plan(300, 0, query=where.vectors[3], k=1))[0].tolist() == [3]


def test_index_finds_nearly_all_of_the_exact_neighbours() -> None:
    where = catalogue(5000)
    hit_count = exact_count = 0
    for seed in range(20):
        search = plan(5000, seed, k=50)
        rows, _ = where.index.search(search.query[np.newaxis], 50, 3000)[0]
        hit_count += len(set(rows.tolist()) & set(brute_force(where, search)))
        exact_count += 50
    assert hit_count / exact_count > 0.9


def test_a_small_budget_returns_fewer_items() -> None:
    where = catalogue(5000)
    query = unit_vectors(1, 2000)
    assert len(where.index.search(query, 50, 1)[0].rows) < len(where.index.search(query, 50, 3000)[0].rows) == 50


def test_index_over_other_vectors_is_refused_before_a_query_can_crash(tmp_path: Path) -> None:
    vectors = unit_vectors(300, 1)
    build_index(vectors, tmp_path / "good.ann")
    with pytest.raises(ValueError, match="vector 0"):
        AnnoyIndex(tmp_path / "good.ann", unit_vectors(300, 2))
    # A euclidean node of 7 dimensions has the size of an angular one of 8: Annoy itself loads it, then crashes.
    build_index(vectors, tmp_path / "foreign.ann", "euclidean", 7)
    with pytest.raises((ValueError, OSError)):
        AnnoyIndex(tmp_path / "foreign.ann", vectors)
