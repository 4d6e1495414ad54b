"""Bundles with synthetic item vectors and a real index."""

from __future__ import annotations

import numpy as np

from ann_service.config import AnnConfig
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import make
from testbed.requests import make_requests
from tests.harness import ann_service
from tests.worlds import write_bundle


def test_a_made_bundle_is_one_that_the_service_opens_and_searches_at_the_recall_asked_for(store: FolderStore) -> None:
    base = write_bundle(store).bundle_version
    made = make(store, base, 2000, trees=5, recall=0.9)
    assert made.recall >= 0.9
    np.testing.assert_allclose(np.linalg.norm(made.queries, axis=1), 1.0, atol=1e-6)
    # The gates of the service let it pass with their own settings.
    assert AnnConfig(store=store.root).max_recall_loss == 0.1
    version = made.manifest.bundle_version
    with ann_service(store) as service:
        service.wait_for_bundle(version)
        response = service.stub.SearchItems(make_requests(store, version)["search-single"][0], timeout=10)
    assert len(set(response.results[0].item_ids)) == 100
