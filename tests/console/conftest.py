"""A store with two bundles, and both services on it, two replicas of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.world import FAILED, PASSED, write


@dataclass(frozen=True)
class World:
    """Services, their store, and the bundles in it.

    Attributes:
        store: Store of the services.
        pair: Services.
        old: Bundle that was live before.
        live: Live bundle, of another model.
        failed: Newest bundle, which failed a publish gate.
    """

    store: FolderStore
    pair: Pair
    old: str
    live: str
    failed: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("console")
    store = FolderStore(folder / "store")
    old = write(store, seed=1)
    live = write(store, seed=2, catalogue_seed=2)
    failed = write(store, {"worse_than_live/ndcg@10": FAILED, "ann_recall": PASSED}, promote=False)
    with Pair(store.root, folder / "logs", replicas=2) as pair:
        # The previous bundle is opened behind the live one.
        yield World(store, pair, old, live, failed)
