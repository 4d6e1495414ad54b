"""A running ANN service over a synthetic bundle, on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from tests.harness import Running, ann_service
from tests.worlds import write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

World = tuple[Running, Manifest]


@contextmanager
def serving(folder: Path, **bundle: Any) -> Iterator[World]:
    """Runs the service over one bundle; `bundle` are arguments of `tests.worlds.write_bundle`."""
    store = FolderStore(folder)
    manifest = write_bundle(store, **bundle)
    with ann_service(store, max_batch_size=20, max_k=200) as service:
        service.wait_for_bundle(manifest.bundle_version)
        yield service, manifest


def ask(world: World, *searches: pb.Search, **fields: Any) -> pb.SearchItemsResponse:
    """Returns the response to searches; `fields` are further fields of the request."""
    service, manifest = world
    request = pb.SearchItemsRequest(searches=searches, **{"model_version": manifest.model_version, **fields})
    return service.stub.SearchItems(request, timeout=10)
