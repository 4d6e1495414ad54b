"""The metrics of shards, of a service without a bundle, with one in one piece, and with one in shards."""

from __future__ import annotations

import pytest

from retrieval.store.folder_store import FolderStore
from tests.ann_service.shards.exported import exported, free_port
from tests.ann_service.shards.searches import BUNDLE
from tests.harness import ann_service
from tests.worlds import write_bundle


def test_without_a_bundle_no_shard_is_open(store: FolderStore) -> None:
    port = free_port()
    with ann_service(store, metrics_port=port):
        assert exported(port) == {"coverage": 0.0, "open": 0, "opening": 0, "silent": 0}


@pytest.mark.parametrize("shards", [1, 4])
def test_all_shards_of_this_process_are_open(store: FolderStore, shards: int) -> None:
    port = free_port()
    version = write_bundle(store, shards=shards, **BUNDLE).bundle_version
    with ann_service(store, metrics_port=port) as service:
        service.wait_for_bundle(version)
        assert exported(port) == {"coverage": 1.0, "open": shards, "opening": 0, "silent": 0}
