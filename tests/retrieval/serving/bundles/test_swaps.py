"""Swaps under load in both services: no request fails or mixes bundles, and memory of old bundles is freed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from tests.harness import Running, ann_service, query_tower_service
from tests.retrieval.serving.traffic import Caller
from tests.worlds import unit_vectors, wait_for, write_bundle


def mapped_files(store: FolderStore) -> Counter[str]:
    """How often this process maps files of a store, by their names."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return Counter(line.rpartition("/")[2] for line in lines if str(store.root) in line)


def test_no_request_fails_or_mixes_bundles_during_swaps(store: FolderStore) -> None:
    first = write_bundle(store)
    expected = {first.bundle_version: unit_vectors(300, 1)}
    with query_tower_service(store, retire_after_s=0.5) as tower, ann_service(store, retire_after_s=0.5) as catalogue:
        tower.wait_for_bundle(first.bundle_version)
        catalogue.wait_for_bundle(first.bundle_version)
        callers = [Caller(tower.port, catalogue.port, expected) for _ in range(3)]
        for caller in callers:
            caller.start()
        for number in range(2, 14):
            if number % 5 == 0:
                version = store.roll_back().version
            else:
                vectors = unit_vectors(300, number)
                manifest = write_bundle(store, seed=1 + number % 2, catalogue_seed=number, promote=False)
                version = manifest.bundle_version
                expected[version] = vectors
                store.promote(version)
            for service in (tower, catalogue):
                wait_for(
                    lambda service=service, version=version: answering_bundle(service) == version, f"{version} answers"
                )
            reached = [caller.answered + 3 for caller in callers]
            wait_for(
                lambda reached=reached: all(c.wrong or c.answered >= r for c, r in zip(callers, reached, strict=True)),
                "callers get further answers",
            )
        for caller in callers:
            caller.ended.set()
        for caller in callers:
            caller.join(20)
        assert [caller.wrong for caller in callers] == [[], [], []]
        wait_for(lambda: len(catalogue.status().bundles) == 2 == len(tower.status().models), "the old ones are dropped")
        # Two bundles are open, and each maps its files once; the tower once for each thread and the event loop.
        most = {"index.ann": 2, "vectors.npy": 2, "query_tower.tflite": 2 * 3}
        wait_for(
            lambda: all(mapped_files(store)[name] <= count for name, count in most.items()),
            "files of dropped bundles are unmapped",
        )


def answering_bundle(service: Running) -> str:
    status = service.status()
    open_ = status.bundles if hasattr(status, "bundles") else status.models
    return open_[0].bundle_version if open_ and not status.loading_bundle_version else ""
