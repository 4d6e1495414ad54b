"""Choice of the index: it has the requested recall, the manifest states it, and equal seeds give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annoy import AnnoyIndex

from retrieval.bundle.manifest import IndexSpec
from retrieval.index.recall import exact_top_k, index_recall
from retrieval.index.registry import open_index
from tests.worlds import unit_vectors
from trainer.errors import ExportError
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

VECTORS = unit_vectors(2000, seed=1, dimension=24)
QUERIES = unit_vectors(40, seed=2, dimension=24)


def build(path: Path, **changes: Any) -> IndexSpec:
    settings = Index(trees=(4, 12), min_recall_at_100=changes.get("min_recall", 0.9))
    return index_selection.build(VECTORS, QUERIES, path, settings=settings, seed=changes.get("seed", 5))


def recall(path: Path, budget: int) -> float:
    opened = AnnoyIndex(24, "angular")
    opened.load(str(path))
    found = 0
    for query in QUERIES:
        exact = sorted(range(2000), key=lambda row: -float(query.astype(np.float64) @ VECTORS[row]))[:100]
        found += len(set(opened.get_nns_by_vector(query, 100, budget)) & set(exact))
    return found / (100 * len(QUERIES))


@pytest.mark.parametrize("floor", [0.5, 0.9, 1.0])
def test_recall_reaches_the_floor_and_is_what_the_manifest_says(tmp_path: Path, floor: float) -> None:
    spec = build(tmp_path / "index.ann", min_recall=floor)
    found = recall(tmp_path / "index.ann", spec.search_budget)
    assert found >= floor
    assert spec.recall_at_100 == pytest.approx(found, abs=1e-9)
    assert (spec.kind, spec.metric, spec.parameters["seed"]) == ("annoy", "angular", 5)
    assert spec.parameters["trees"] in (4, 12)


def test_a_budget_one_step_smaller_finds_too_little(tmp_path: Path) -> None:
    spec = build(tmp_path / "index.ann")
    assert recall(tmp_path / "index.ann", int(spec.search_budget / 1.26)) < 0.9


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    specs = [build(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert specs[0] == specs[1]
    assert a != c


def test_a_catalogue_smaller_than_the_neighbourhood_is_found_whole(tmp_path: Path) -> None:
    spec = index_selection.build(
        VECTORS[:7], QUERIES, tmp_path / "index.ann", settings=Index(trees=(2,), min_recall_at_100=1.0), seed=1
    )
    assert spec.recall_at_100 == 1.0


@pytest.mark.parametrize("kind", ["faiss_hnsw", "faiss_ivf"])
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_coarse_index_has_to_reach_the_recall_too_and_keeps_its_storage(
    tmp_path: Path, kind: Any, storage: Any
) -> None:
    path = tmp_path / "index.ann"
    settings = Index(kind=kind, storage=storage, lists=(20,), links=(8,), ef_construction=40, min_recall_at_100=0.9)
    spec = index_selection.build(VECTORS, QUERIES, path, settings=settings, seed=5)
    assert spec.kind == f"{kind}_{storage}"
    exact = exact_top_k(QUERIES, VECTORS, 100)
    opened = open_index(spec.kind, spec.metric, path, VECTORS)
    assert spec.recall_at_100 == index_recall(opened, QUERIES, exact, spec.search_budget) >= 0.9

    again = index_selection.rebuild(VECTORS[:1500], QUERIES, tmp_path / "fewer.ann", old=spec, min_recall=0.9)
    assert (again.kind, again.parameters) == (spec.kind, spec.parameters)
    assert again.recall_at_100 >= 0.9


def test_a_recall_that_no_coarse_index_reaches_is_refused(tmp_path: Path) -> None:
    # 1,800 vectors that differ by less than a step of int8 in the range that 200 others give, and queries near them.
    close = VECTORS[:1] + 1e-4 * unit_vectors(2000, 3, 24)
    near = VECTORS[:1] + 0.5 * unit_vectors(40, 4, 24)
    vectors, queries = ((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (close, near))
    vectors[1800:] = VECTORS[1800:]
    path = tmp_path / "index.ann"
    settings = Index(kind="faiss_ivf", storage="int8", lists=(4,), min_recall_at_100=0.95)
    with pytest.raises(ExportError, match=r"no faiss_ivf_int8 index of .* reaches recall 0.95"):
        index_selection.build(vectors, queries, path, settings=settings, seed=5)
    exact = Index(kind="faiss_ivf", lists=(4,), min_recall_at_100=0.95)
    assert index_selection.build(vectors, queries, path, settings=exact, seed=5).recall_at_100 >= 0.95
