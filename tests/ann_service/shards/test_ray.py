"""Shards on the nodes of a Ray cluster: three nodes, as processes of this machine with an address each."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from testbed.shards.cluster import Cluster, ray_cluster
from tests.ann_service.shards.exported import exported, free_port
from tests.ann_service.shards.searches import BUNDLE, INVALID, ITEMS, QUERY, SEARCHES, by_embedding
from tests.ann_service.shards.test_conformance import assert_equal
from tests.ann_service.world import World, ask, serving
from tests.harness import ann_service, failure
from tests.worlds import unit_vectors, wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(240)]  # warnings of Ray, about itself

SHARDS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as running:
        yield running


@contextmanager
def on_ray(store: FolderStore, cluster: Cluster, manifest: Manifest, **settings: Any) -> Iterator[World]:
    """Runs the service over the shards of the live bundle, once it answers."""
    config = {"engine": "ray", "ray_address": cluster.address, "max_k": 200, "max_batch_size": 20, **settings}
    with ann_service(store, **config) as service:
        wait_for(lambda: service.health() == "SERVING", "all shards are open", 60)
        service.wait_for_bundle(manifest.bundle_version)
        yield service, manifest


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_answers_as_one_catalogue(cluster: Cluster, store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store, shards=SHARDS, **BUNDLE)
    with serving(tmp_path / "whole", **BUNDLE) as whole, on_ray(store, cluster, manifest) as sharded:
        for search in SEARCHES.values():
            actual = ask(sharded, search)
            assert_equal(actual, ask(whole, search))
            assert actual.coverage == 1.0
        for searches in INVALID.values():
            failures = [
                failure(
                    service.stub.SearchItems,
                    pb.SearchItemsRequest(searches=searches, model_version=manifest.model_version),
                )
                for service, manifest in (sharded, whole)
            ]
            assert failures[0] == failures[1]


class Load:
    """Callers in a closed loop, who check each answer against those that are right.

    Attributes:
        outcomes: Number of answers by kind: ``complete``, ``partial``, ``refused``, or what is wrong with them.
    """

    def __init__(self, world: World, answers: dict[str, dict[float, list[list[str]]]]) -> None:
        """Takes the service, and for each bundle and each coverage the right answers."""
        self._service, self._manifest = world
        self._answers = answers
        self.outcomes: Counter[str] = Counter()
        self._stops = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stops.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, outcome: str, count: int, timeout_s: float = 60.0) -> None:
        """Waits until there are so many more answers of a kind than now."""
        goal = self.outcomes[outcome] + count
        wait_for(lambda: self.outcomes[outcome] >= goal, f"{count} answers {outcome}: {self.outcomes}", timeout_s)

    def _run(self) -> None:
        model = self._manifest.model_version
        while not self._stops.is_set():
            request = pb.SearchItemsRequest(searches=[by_embedding()], model_version=model)
            try:
                response = self._service.stub.SearchItems(request, timeout=10)
            except grpc.RpcError as error:
                refused = error.code() is grpc.StatusCode.UNAVAILABLE and "did not answer in time" in str(error)
                self.outcomes["refused" if refused else f"{error.code()}: {error.details()}"] += 1
                continue
            by_coverage = self._answers.get(response.bundle_version, {})
            found = list(response.results[0].item_ids)
            if found not in by_coverage.get(round(response.coverage, 4), []):
                self.outcomes[f"wrong at {response.coverage} of {response.bundle_version}: {found}"] += 1
            else:
                self.outcomes["complete" if response.coverage == 1.0 else "partial"] += 1
            model = response.newest_model_version


def right_answers(manifest: Manifest, seed: int = 1) -> dict[float, list[list[str]]]:
    """Returns the exact answers to `by_embedding()` of each set of shards, by the share of the items in them."""
    scores = unit_vectors(ITEMS, seed) @ QUERY
    ends = np.cumsum([shard.item_count for shard in manifest.shards])
    owner = np.searchsorted(ends, np.arange(ITEMS), side="right")  # [items], shard of each item
    answers: dict[float, list[list[str]]] = {}
    for size in range(1, len(ends) + 1):
        for shards in itertools.combinations(range(len(ends)), size):
            held = np.flatnonzero(np.isin(owner, shards))
            top = held[np.argsort(-scores[held])[:10]]
            answers.setdefault(round(len(held) / ITEMS, 4), []).append([f"i{row}" for row in top])
    return answers


@pytest.mark.parametrize("partial", ["refuse", "allow"])
def test_answers_say_what_they_cover_when_a_node_is_gone_and_it_recovers_by_itself(
    cluster: Cluster, store: FolderStore, partial: str
) -> None:
    manifest = write_bundle(store, shards=SHARDS, **BUNDLE)
    port = free_port()
    settings = {"partial_answers": partial, "shard_timeout_s": 3.0, "metrics_port": port}
    node = cluster.nodes[0]
    try:
        with on_ray(store, cluster, manifest, **settings) as world:
            assert exported(port) == {"coverage": 1.0, "open": SHARDS, "opening": 0, "silent": 0}
            node = next(each for each in cluster.nodes if cluster.actors(each))
            with Load(world, {manifest.bundle_version: right_answers(manifest)}) as load:
                load.wait_for("complete", 50)
                cluster.remove(node)
                load.wait_for("partial" if partial == "allow" else "refused", 1)
                wait_for(lambda: exported(port)["coverage"] < 1.0, "the metrics say that shards are away", 30)
                assert exported(port)["open"] < SHARDS
                load.wait_for("complete", 200)
                wait_for(lambda: exported(port)["coverage"] == 1.0, "the metrics say that all is well", 30)
            expected = {"complete", "partial" if partial == "allow" else "refused"}
            assert load.outcomes.keys() == expected, load.outcomes
    finally:
        if node not in cluster.nodes:
            cluster.add(node)


def test_swaps_of_all_shards_fail_and_mix_nothing(cluster: Cluster, store: FolderStore) -> None:
    first = write_bundle(store, shards=SHARDS, **BUNDLE)
    second = write_bundle(store, shards=SHARDS, catalogue_seed=2, promote=False, **BUNDLE)
    answers = {first.bundle_version: right_answers(first, 1), second.bundle_version: right_answers(second, 2)}
    with on_ray(store, cluster, first) as world, Load(world, answers) as load:
        load.wait_for("complete", 20)
        for version in (second.bundle_version, first.bundle_version, second.bundle_version):
            store.promote(version)
            world[0].wait_for_bundle(version)
            load.wait_for("complete", 30)
        store.roll_back()
        world[0].wait_for_bundle(first.bundle_version)
        load.wait_for("complete", 30)
    assert load.outcomes.keys() == {"complete"}, load.outcomes


def test_with_replicas_no_call_fails_when_an_actor_dies(cluster: Cluster, store: FolderStore) -> None:
    manifest = write_bundle(store, shards=2, **BUNDLE)
    before = set(actors())
    settings = {"shard_replicas": 2, "shard_timeout_s": 5.0}
    with on_ray(store, cluster, manifest, **settings) as world:
        answers = {manifest.bundle_version: right_answers(manifest)}
        with Load(world, answers) as load:
            load.wait_for("complete", 20)
            os.kill(min(set(actors()) - before), signal.SIGKILL)
            load.wait_for("complete", 200)
        assert load.outcomes.keys() == {"complete"}, load.outcomes


def actors() -> list[int]:
    """Returns the process ids of all actors on this machine."""
    return [each.pid for each in psutil.process_iter(["name"]) if each.info["name"].startswith("ray::_Actor")]


def test_a_damaged_shard_is_refused_by_name_and_the_old_bundle_goes_on(cluster: Cluster, store: FolderStore) -> None:
    good = write_bundle(store, shards=SHARDS, **BUNDLE)
    with on_ray(store, cluster, good) as world:
        service = world[0]
        bad = write_bundle(store, shards=SHARDS, damage=reverse_vectors, **BUNDLE)
        problem = wait_for(lambda: next(iter(service.status().problems), None), "it is refused", 60)
        assert (problem.bundle_version, problem.gate) == (bad.bundle_version, "index")
        assert problem.message.startswith("shard-02: ")
        assert ask(world, by_embedding()).bundle_version == good.bundle_version


def reverse_vectors(folder: Path) -> None:
    path = folder / "shards" / "shard-02" / "vectors.npy"
    np.save(path, np.load(path)[::-1])
