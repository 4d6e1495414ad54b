"""The RPCs of the ANN service."""

from __future__ import annotations

import grpc

from ann_service import requests, responses
from ann_service.batching import Batcher
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from retrieval.serving.bundles.open_bundle import OpenBundle, Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.errors import BundleNotServed, LexicalNotServed, ModelNotServed, NoBundle
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.cores import own_cores
from retrieval.serving.runtime.metrics import Metrics
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AnnService"].full_name

_TYPES: dict[str, pb.AttributeType.ValueType] = {
    "string": pb.ATTRIBUTE_TYPE_STRING,
    "int": pb.ATTRIBUTE_TYPE_INT,
    "float": pb.ATTRIBUTE_TYPE_FLOAT,
    "string_list": pb.ATTRIBUTE_TYPE_STRING_LIST,
}


class AnnServicer(ann_service_pb2_grpc.AnnServiceServicer):
    """Searches the open catalogues. Safe for several threads."""

    def __init__(self, open_bundles: OpenBundles[Catalogue], config: AnnConfig, metrics: Metrics) -> None:
        """Takes the open catalogues, the settings, and the metrics of the server."""
        self._open_bundles = open_bundles
        self._max_batch_size = config.max_batch_size
        self._max_k = config.max_k
        self._batcher = Batcher(own_cores(), config.max_batch_size, config.batch_timeout_s, metrics.batched_searches)
        self._batch_size = metrics.batch_size.labels("SearchItems")

    def SearchItems(self, request: pb.SearchItemsRequest, context: grpc.ServicerContext) -> pb.SearchItemsResponse:
        """Returns one result for each search, all from one bundle.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        requests.check(request, self._max_batch_size)
        self._batch_size.observe(len(request.searches))
        snapshot = self._open_bundles.snapshot
        catalogue = _pick(snapshot, request)
        plans = requests.parse(request, catalogue, self._max_k)
        results = self._batcher.submit(catalogue, plans, context)
        return responses.build(catalogue, plans, results, snapshot.open[0].bundle.manifest.model_version)

    def GetServingStatus(
        self, request: pb.GetServingStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetServingStatusResponse:
        """Returns the open bundles, and the bundles that were refused."""
        snapshot = self._open_bundles.snapshot
        return build_status(
            pb.GetServingStatusResponse,
            self._open_bundles,
            snapshot,
            bundles=[_describe(open_bundle) for open_bundle in snapshot.open],
            max_batch_size=self._max_batch_size,
            max_k=self._max_k,
            newest_model_version=snapshot.open[0].bundle.manifest.model_version if snapshot.open else "",
        )


def _pick(snapshot: Snapshot[Catalogue], request: pb.SearchItemsRequest) -> Catalogue:
    """Returns the open catalogue that answers a request: the newest of its model, unless it names a bundle.

    Raises:
        NoBundle: no bundle is open.
        BundleNotServed: the bundle that the request names is not open, or is of another model.
        ModelNotServed: no open bundle is of the model that the request names.
        LexicalNotServed: a search needs a lexical index, and the bundle has none.
    """
    if not snapshot.open:
        raise NoBundle()
    catalogues = [open_bundle.bundle for open_bundle in snapshot.open]
    if request.bundle_version:
        catalogue = _pick_bundle(catalogues, request.model_version, request.bundle_version)
    else:
        catalogue = _pick_newest(catalogues, request.model_version)
    if catalogue.lexical is None and requests.needs_lexical(request):
        with_lexical = [other.manifest.bundle_version for other in catalogues if other.lexical is not None]
        raise LexicalNotServed(catalogue.manifest.bundle_version, with_lexical)
    return catalogue


def _pick_newest(catalogues: list[Catalogue], model_version: str) -> Catalogue:
    if not model_version:
        return catalogues[0]
    for catalogue in catalogues:
        if catalogue.manifest.model_version == model_version:
            return catalogue
    raise ModelNotServed(model_version, list(dict.fromkeys(c.manifest.model_version for c in catalogues)))


def _pick_bundle(catalogues: list[Catalogue], model_version: str, bundle_version: str) -> Catalogue:
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


def _describe(open_bundle: OpenBundle[Catalogue]) -> pb.OpenBundle:
    manifest = open_bundle.bundle.manifest
    spec = manifest.index
    lexical = open_bundle.bundle.lexical
    return pb.OpenBundle(
        bundle_version=manifest.bundle_version,
        model_version=manifest.model_version,
        item_count=manifest.item_count,
        dimension=manifest.dimension,
        index_kind=spec.kind,
        index_parameters={name: str(value) for name, value in spec.parameters.items()},
        search_budget=spec.search_budget,
        recall_at_100=spec.recall_at_100,
        attributes=[pb.Attribute(name=name, type=_TYPES[type_]) for name, type_ in manifest.attributes.items()],
        opened_at_ms=open_bundle.opened_at_ms,
        lexical_attributes=() if lexical is None else lexical.attributes,
    )
