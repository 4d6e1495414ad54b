"""The RPCs of the ANN service."""

from __future__ import annotations

import grpc

from ann_service.batching import Batcher
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.requests import check_batch, read_searches
from ann_service.responses import Versions, to_response
from ann_service.text import ranks_by_text
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.bundles.snapshot import OpenBundle, Snapshot
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
    """Answers with the open catalogues; safe for several threads."""

    def __init__(self, open_bundles: OpenBundles[Catalogue], config: AnnConfig, metrics: Metrics) -> None:
        """Takes the open catalogues, the limits of a request, and the metrics of the server."""
        self._open_bundles = open_bundles
        self._max_batch_size = config.max_batch_size
        self._max_k = config.max_k
        self._batcher = Batcher(own_cores(), config.max_batch_size, config.batch_timeout_s, metrics.batched_searches)
        self._batch_size = metrics.batch_size.labels("SearchItems")

    def SearchItems(self, request: pb.SearchItemsRequest, context: grpc.ServicerContext) -> pb.SearchItemsResponse:
        """Returns one result for each search, all from one bundle.

        Raises:
            ServiceError: as the proto lists them.
        """
        check_batch(request.searches, request.model_version, self._max_batch_size)
        self._batch_size.observe(len(request.searches))
        snapshot = self._open_bundles.snapshot
        catalogue = _pick(snapshot, request.model_version, request.bundle_version)
        if catalogue.lexical is None and any(map(ranks_by_text, request.searches)):
            opened = [open_bundle.bundle for open_bundle in snapshot.open]
            with_one = [other.manifest.bundle_version for other in opened if other.lexical is not None]
            raise LexicalNotServed(catalogue.manifest.bundle_version, with_one)
        plans = read_searches(request.searches, catalogue, self._max_k)
        versions = Versions(
            catalogue.manifest.model_version,
            catalogue.manifest.bundle_version,
            snapshot.open[0].bundle.manifest.model_version,
        )
        return to_response(catalogue.items, plans, self._batcher.search(catalogue, plans, context), versions)

    def GetServingStatus(
        self, request: pb.GetServingStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetServingStatusResponse:
        """Returns what is open."""
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


def _pick(snapshot: Snapshot[Catalogue], model_version: str, bundle_version: str) -> Catalogue:
    if not snapshot.open:
        raise NoBundle()
    catalogues = [open_bundle.bundle for open_bundle in snapshot.open]
    if bundle_version:
        return _pick_pinned(catalogues, model_version, bundle_version)
    if not model_version:
        return catalogues[0]
    for catalogue in catalogues:
        if catalogue.manifest.model_version == model_version:
            return catalogue
    raise ModelNotServed(model_version, list(dict.fromkeys(c.manifest.model_version for c in catalogues)))


def _pick_pinned(catalogues: list[Catalogue], model_version: str, bundle_version: str) -> Catalogue:
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
        lexical_attributes=() if (lexical := open_bundle.bundle.lexical) is None else lexical.attributes,
    )
