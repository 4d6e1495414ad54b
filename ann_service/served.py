"""The catalogue of an open bundle, in one piece or in shards, and which of the open ones answers a request."""

from __future__ import annotations

from collections.abc import Sequence

from ann_service import requests
from ann_service.catalogue import Catalogue
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.serving.answering.errors import (
    BundleNotServed,
    LexicalNotServed,
    ModelNotServed,
    NoBundle,
    PopularityNotServed,
)
from retrieval.serving.bundles.open_bundle import Snapshot
from two_tower.ann.v1 import ann_service_pb2 as pb

Served = Catalogue | ShardedCatalogue
"""The catalogue of an open bundle: in one piece, or in shards."""


def pick(snapshot: Snapshot[Served], request: pb.SearchItemsRequest, searches: Sequence[pb.Search]) -> Served:
    """Returns the open catalogue that answers a request: the newest of its model, unless it names a bundle.

    Raises:
        NoBundle: no bundle is open.
        BundleNotServed: the bundle that the request names is not open, or is of another model.
        ModelNotServed: no open bundle is of the model that the request names.
        LexicalNotServed: a search needs a lexical index, and the bundle has none.
        PopularityNotServed: a search is for popular items, and the bundle does not know the popularity of its items.
    """
    if not snapshot.open:
        raise NoBundle()
    catalogues = [open_bundle.bundle for open_bundle in snapshot.open]
    if request.bundle_version:
        catalogue = _pick_bundle(catalogues, request.model_version, request.bundle_version)
    else:
        catalogue = _pick_newest(catalogues, request.model_version)
    if not catalogue.lexical_attributes and requests.needs_lexical(searches):
        with_lexical = [other.manifest.bundle_version for other in catalogues if other.lexical_attributes]
        raise LexicalNotServed(catalogue.manifest.bundle_version, with_lexical)
    if not catalogue.has_popularity and _needs_popularity(searches):
        with_popularity = [other.manifest.bundle_version for other in catalogues if other.has_popularity]
        raise PopularityNotServed(catalogue.manifest.bundle_version, with_popularity)
    return catalogue


def _pick_newest(catalogues: list[Served], model_version: str) -> Served:
    if not model_version:
        return catalogues[0]
    for catalogue in catalogues:
        if catalogue.manifest.model_version == model_version:
            return catalogue
    raise ModelNotServed(model_version, list(dict.fromkeys(c.manifest.model_version for c in catalogues)))


def _pick_bundle(catalogues: list[Served], model_version: str, bundle_version: str) -> Served:
    versions = [catalogue.manifest.bundle_version for catalogue in catalogues]
    if bundle_version not in versions:
        raise BundleNotServed(f"bundle {bundle_version[:80]!r} is not open here", versions)
    catalogue = catalogues[versions.index(bundle_version)]
    if model_version not in ("", catalogue.manifest.model_version):
        raise BundleNotServed(
            f"bundle {bundle_version} is of model {catalogue.manifest.model_version}, not {model_version[:80]!r}",
            versions,
        )
    return catalogue


def _needs_popularity(searches: Sequence[pb.Search]) -> bool:
    return any(search.HasField("popular") for search in searches)
