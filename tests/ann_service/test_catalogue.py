"""Load gates of the ANN service: a faulty bundle never replaces the open one, and the status names the reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.manifest import IndexSpec, Manifest
from retrieval.index.build import build_file
from retrieval.index.errors import FaissMissing
from retrieval.serving.bundles import verification
from retrieval.store.folder_store import FolderStore
from tests.harness import Running, ann_service
from tests.worlds import build_index, item_table, unit_vectors, wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

Damage = Callable[[Path], None]


def edit_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def truncate(folder: Path) -> None:
    os.truncate(folder / "index.ann", (folder / "index.ann").stat().st_size - 44)  # one node: Annoy would load it


def flip_a_bit(folder: Path) -> None:
    path = folder / "index.ann"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_junk(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format_version": 1')


DAMAGED_AFTER_PUBLISH: list[tuple[Damage, str, str]] = [
    (truncate, "size", "index.ann: "),
    (flip_a_bit, "sha256", "index.ann: sha256 "),
    (lambda folder: (folder / "vectors.npy").unlink(), "size", "vectors.npy: no file"),
    (lambda folder: edit_manifest(folder, format_version=4), "format_version", "format version 4 is newer"),
    (write_junk, "manifest", "damaged"),
    (shutil.rmtree, "missing", "holds no bundle"),
]


def answers(service: Running, manifest: Manifest) -> None:
    search = pb.Search(embedding=pb.Embedding(values=[1.0] * 8), k=3)
    request = pb.SearchItemsRequest(model_version=manifest.model_version, searches=[search])
    assert service.stub.SearchItems(request, timeout=10).bundle_version == manifest.bundle_version


def point_at(store: FolderStore, *versions: str) -> None:
    """Names bundles as live without the checks of `promote`, as a faulty copy of a store could."""
    (store.root / "LIVE.new").write_text("".join(f"{version}\n" for version in versions))
    os.replace(store.root / "LIVE.new", store.root / "LIVE")


@pytest.mark.parametrize(("damage", "gate", "message"), DAMAGED_AFTER_PUBLISH)
def test_keeps_the_old_bundle_when_the_new_one_is_damaged(
    store: FolderStore, damage: Damage, gate: str, message: str
) -> None:
    good = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, seed=2, promote=False).bundle_version
        damage(store.path(bad))
        point_at(store, bad, good.bundle_version)
        problem = service.wait_for_problem(bad)
        assert (problem.gate, message in problem.message) == (gate, True), problem.message
        answers(service, good)
        assert service.health() == "SERVING"
        assert service.status().live_bundle_version == bad
        assert [bundle.bundle_version for bundle in service.status().bundles] == [good.bundle_version]


def rewrite_golden_queries(change: Callable[[GoldenQueries], GoldenQueries]) -> Damage:
    def damage(folder: Path) -> None:
        golden_queries = change(GoldenQueries.read(folder / "canaries.json"))
        (folder / "canaries.json").unlink()
        golden_queries.write(folder / "canaries.json")

    return damage


def other_items(folder: Path) -> None:
    (folder / "items.npz").unlink()
    item_table(299).write(folder / "items.npz")


def other_vectors(folder: Path) -> None:
    np.save(folder / "vectors.npy", unit_vectors(300, 77))
    (folder / "index.ann").unlink()
    build_index(unit_vectors(300, 77), folder / "index.ann")


def shuffled_items(folder: Path) -> None:
    table = item_table(300)
    (folder / "items.npz").unlink()
    ItemTable.of(reversed(table.ids), table.attributes).write(folder / "items.npz")


def long_vectors(folder: Path) -> None:
    np.save(folder / "vectors.npy", unit_vectors(300, 1) * 2)


FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"index": lambda vectors, path: build_index(vectors, path, "euclidean", 7)}, "index"),
    ({"index": lambda vectors, path: build_index(vectors, path, "euclidean")}, "index"),
    ({"index": lambda vectors, path: build_index(vectors, path, "angular", 5)}, "index"),
    ({"index": lambda vectors, path: build_index(vectors[:299], path)}, "index"),
    ({"manifest": lambda m: replace(m, index=replace(m.index, metric="dot"))}, "index"),
    ({"manifest": lambda m: replace(m, index=replace(m.index, search_budget=1))}, "recall"),
    ({"manifest": lambda m: replace(m, dimension=9)}, "contents"),
    ({"manifest": lambda m: replace(m, item_count=301)}, "contents"),
    ({"damage": other_items}, "contents"),
    ({"damage": long_vectors}, "contents"),
    ({"damage": other_vectors}, "canaries"),
    ({"damage": shuffled_items}, "canaries"),
    (
        {"damage": rewrite_golden_queries(lambda c: GoldenQueries({}, c.embeddings[:0], [], c.top_scores[:0]))},
        "contents",
    ),
    ({"damage": rewrite_golden_queries(lambda c: replace(c, top_scores=c.top_scores + np.float32(0.01)))}, "canaries"),
]


@pytest.mark.parametrize(("fields", "gate"), FOREIGN)
def test_keeps_the_old_bundle_when_the_new_one_is_published_wrong(
    store: FolderStore, fields: dict[str, Any], gate: str
) -> None:
    good = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, **fields).bundle_version
        assert service.wait_for_problem(bad).gate == gate, service.status().problems
        answers(service, good)


def test_golden_queries_may_swap_near_ties(store: FolderStore) -> None:
    def tie(vectors: np.ndarray) -> np.ndarray:
        vectors[8] = vectors[5]
        return vectors

    def swap(golden_queries: GoldenQueries) -> GoldenQueries:
        swapped = {"i5": "i8", "i8": "i5"}
        items = [[swapped.get(item, item) for item in top] for top in golden_queries.top_items]
        assert items != golden_queries.top_items
        return replace(golden_queries, top_items=items)

    manifest = write_bundle(store, vectors=tie, damage=rewrite_golden_queries(swap))
    with ann_service(store) as service:
        service.wait_for_bundle(manifest.bundle_version)


def test_bundle_that_does_not_fit_beside_another_is_refused(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_bundle(store)
    names = ("vectors.npy", "index.ann", "items.npz", "canaries.json")
    size = sum(manifest.files[name].size_bytes for name in names)
    monkeypatch.setattr("ann_service.loader.available_bytes", lambda: 2 * size - 1)
    with ann_service(store) as service:
        problem = service.wait_for_problem(manifest.bundle_version)
        assert (problem.gate, "--unload-first" in problem.message) == ("memory", True)
        assert service.health() == "NOT_SERVING"
    with ann_service(store, unload_first=True) as service:
        service.wait_for_bundle(manifest.bundle_version)


def test_available_memory_is_plausible() -> None:
    assert 1 << 20 < verification.available_bytes() < 1 << 50


def test_a_half_copied_bundle_is_served_once_it_is_complete(store: FolderStore, tmp_path: Path) -> None:
    good = write_bundle(store)
    with ann_service(store, retry_after_s=0.05) as service:
        service.wait_for_bundle(good.bundle_version)
        new = write_bundle(store, seed=2, promote=False).bundle_version
        aside = tmp_path / "vectors.npy"
        shutil.move(store.path(new) / "vectors.npy", aside)
        point_at(store, new, good.bundle_version)
        assert service.wait_for_problem(new).gate == "size"
        shutil.move(aside, store.path(new) / "vectors.npy")
        service.wait_for_bundle(new)
        assert not service.status().problems


def test_serves_the_previous_bundle_if_the_live_one_is_damaged_at_the_start(store: FolderStore) -> None:
    good = write_bundle(store)
    bad = write_bundle(store, seed=2).bundle_version
    flip_a_bit(store.path(bad))
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        assert service.wait_for_problem(bad).gate == "sha256"


def test_keeps_serving_when_the_store_cannot_be_read(store: FolderStore) -> None:
    good = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        (store.root / "LIVE").write_text("rubbish\n")
        assert service.wait_for_problem("").gate == "store"
        answers(service, good)
        (store.root / "LIVE").unlink()
        wait_for(lambda: "is gone" in service.wait_for_problem("").message, "LIVE is missed")
        assert service.wait_for_problem("").gate == "store"
        answers(service, good)
        new = write_bundle(store, seed=2)
        service.wait_for_bundle(new.bundle_version)
        assert not service.status().problems


def with_index(kind: str, budget: int, kept: int | None = None, **parameters: int) -> dict[str, Any]:
    """Returns the arguments of `write_bundle` for a bundle with an index of a kind, or with its first bytes."""

    def build(vectors: np.ndarray, path: Path) -> None:
        build_file(kind, {**parameters, "seed": 3}, vectors, path)
        os.truncate(path, path.stat().st_size if kept is None else kept)

    return {
        "index": build,
        "manifest": lambda m: replace(m, index=IndexSpec(kind, "angular", parameters, budget, 0.99)),
    }


KINDS = [
    with_index("faiss_ivf", 9, lists=10),
    with_index("faiss_hnsw", 100, links=8, ef_construction=40),
    with_index("faiss_ivf_int8", 9, lists=10),
    with_index("faiss_hnsw_float16", 100, links=8, ef_construction=40),
    {},
]


def test_swaps_from_one_kind_of_index_to_another(store: FolderStore) -> None:
    with ann_service(store) as service:
        for fields in KINDS:
            manifest = write_bundle(store, **fields)
            service.wait_for_bundle(manifest.bundle_version)
            answers(service, manifest)
            newest = service.status().bundles[0]
            assert (newest.index_kind, newest.search_budget) == (manifest.index.kind, manifest.index.search_budget)


@pytest.mark.parametrize(
    "fields",
    [
        {**KINDS[0], "index": build_index},  # an Annoy file under the name of another kind
        {**KINDS[0], "index": lambda vectors, path: KINDS[0]["index"](vectors[::-1].copy(), path)},
        {**KINDS[1], "index": KINDS[0]["index"]},
        {**KINDS[2], "index": KINDS[0]["index"]},
        {**KINDS[2], "index": with_index("faiss_ivf_float16", 9, lists=10)["index"]},
        {**KINDS[3], "index": lambda vectors, path: KINDS[3]["index"](vectors[::-1].copy(), path)},
        {**KINDS[1], "index": lambda vectors, path: path.write_bytes(b"IHNf")},
        # FAISS itself ends the process if it maps these: each is cut within a number.
        {**KINDS[2], "index": with_index("faiss_ivf_int8", 9, 46, lists=10)["index"]},
        {**KINDS[3], "index": with_index("faiss_hnsw_float16", 100, 180, links=8, ef_construction=40)["index"]},
    ],
)
def test_keeps_the_old_bundle_when_a_faiss_index_is_not_what_the_manifest_says(
    store: FolderStore, fields: dict[str, Any]
) -> None:
    good = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, **fields).bundle_version
        assert service.wait_for_problem(bad).gate == "index", service.status().problems
        answers(service, good)


def test_faiss_bundle_without_the_package_is_refused_with_what_to_install(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise FaissMissing("it needs the package faiss-cpu")

    good = write_bundle(store)
    monkeypatch.setattr("retrieval.index.faiss_index.FaissIndex.__init__", missing)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        problem = service.wait_for_problem(write_bundle(store, **KINDS[0]).bundle_version)
        assert (problem.gate, problem.message) == (
            "index",
            "index.ann is faiss_ivf: it needs the package faiss-cpu",
        )
        answers(service, good)
