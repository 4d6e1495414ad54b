"""What the measurements of the services rest on."""

from __future__ import annotations

import numpy as np

from ann_service.config import AnnConfig
from benchmarks.loadtest import limits
from benchmarks.services.load import Series, measure_here
from retrieval.store.store import BundleStore
from testbed.indexed_bundles import make
from testbed.requests import make_requests
from tests.worlds import write_bundle


def test_a_made_bundle_is_one_that_the_service_opens_and_searches_at_the_recall_asked_for(store: BundleStore) -> None:
    base = write_bundle(store).bundle_version
    made = make(store, base, 2000, trees=5, recall=0.9)
    assert made.recall >= 0.9
    np.testing.assert_allclose(np.linalg.norm(made.queries, axis=1), 1.0, atol=1e-6)
    # The gates of the service, with its own settings, let it pass.
    requests = {"search": make_requests(store, made.manifest.bundle_version)["search-single"]}
    assert limits.measure(store, requests, 0.02)["search"] > 0
    assert AnnConfig(store=store.root).max_recall_loss == 0.1


def test_work_in_this_process_is_counted_a_call() -> None:
    series, seen = Series(), list[int]()
    measure_here(seen.append, 0.01, series)
    assert seen[:3] == [0, 0, 1]  # the first warms up
    assert len(series.cpu_us) == len(series.rate) == 1
    assert series.cpu_us[0] > 0
