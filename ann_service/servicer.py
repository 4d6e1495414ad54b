"""The RPCs of the ANN service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
from google.protobuf.message import Message

from ann_service import decoding, fusion, requests, responses
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.plan import SearchPlan
from retrieval.serving.answering.call import SMALL_BYTES, Call, Method, run_together
from retrieval.serving.answering.errors import (
    BundleNotServed,
    LexicalNotServed,
    ModelNotServed,
    NoBundle,
    PopularityNotServed,
)
from retrieval.serving.answering.quick_method import QuickMethod
from retrieval.serving.bundles.open_bundle import OpenBundle, Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.metrics import Metrics
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AnnService"].full_name

_log = structlog.get_logger("servicer")

_TYPES: dict[str, pb.AttributeType.ValueType] = {
    "string": pb.ATTRIBUTE_TYPE_STRING,
    "int": pb.ATTRIBUTE_TYPE_INT,
    "float": pb.ATTRIBUTE_TYPE_FLOAT,
    "string_list": pb.ATTRIBUTE_TYPE_STRING_LIST,
}


_SEARCHES_AT_ONCE = 64
"""Number of searches of a large call that are ranked together. More would share no more of a scan."""


class SearchItems:
    """The method SearchItems: one result for each search of a request, all from one bundle.

    ```
    each call: decode ─► check ─► pick a catalogue ─► parse ─┐
                                                             ├─► rank together ─► each call: build the response
    other calls that wait: the same ─────────────────────────┘
    ```

    Attributes:
        name, max_shared, needs_admin, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    name = "SearchItems"
    max_shared = 64
    needs_admin = False
    is_quick = False

    def __init__(self, open_bundles: OpenBundles[Catalogue], config: AnnConfig, metrics: Metrics) -> None:
        """Takes the open catalogues, the settings, and the metrics of the server."""
        self._open_bundles = open_bundles
        self._max_batch_size = config.max_batch_size
        self._max_k, self._max_results = config.max_k, config.max_results
        self._batch_size = metrics.batch_size.labels(self.name)
        self._batched_searches = metrics.batched_searches

    def is_short(self, call: Call) -> bool:
        """Returns whether a call is small, and the newest catalogue is searched quickly."""
        snapshot = self._open_bundles.snapshot
        return len(call.body) <= SMALL_BYTES and bool(snapshot.open) and snapshot.open[0].bundle.is_quick

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers calls, those to one catalogue together; see `retrieval.serving.answering.call.Method.answer`."""
        if len(calls) == 1:
            calls[0].response = (yield from calls[0].run(self._answer_alone(calls[0]))) or b""
            return
        by_catalogue: defaultdict[int, list[_Parsed]] = defaultdict(list)
        for call in calls:
            parsed = yield from call.run(self._parse(call))
            if parsed is not None:
                by_catalogue[id(parsed.catalogue)].append(parsed)
        for group in by_catalogue.values():
            yield from self._answer_group(group)

    def _answer_alone(self, call: Call) -> Steps[bytes]:
        """Returns the response to a call, however many searches it has.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        searches, catalogue, newest_model_version = yield from self._open(call)
        response = responses.begin(catalogue, newest_model_version)
        # Searches keep the sets of items that match their filters, so a part of them is answered at a time.
        for first in range(0, len(searches), _SEARCHES_AT_ONCE):
            part = searches[first : first + _SEARCHES_AT_ONCE]
            plans = yield from requests.parse(part, catalogue, self._max_k, first)
            hits = yield from fusion.rank(catalogue, plans)
            yield from responses.add(response, catalogue, plans, hits)
        return response.getvalue()

    def _parse(self, call: Call) -> Steps[_Parsed]:
        """Returns the searches of a small call.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        searches, catalogue, newest_model_version = yield from self._open(call)
        plans = yield from requests.parse(searches, catalogue, self._max_k)
        return _Parsed(call, catalogue, plans, newest_model_version)

    def _open(self, call: Call) -> Steps[tuple[Sequence[pb.Search], Catalogue, str]]:
        """Returns the searches of a call, the catalogue that answers them, and the model of the newest bundle.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        request, searches = yield from decoding.decode_request(call.body, self._max_batch_size)
        requests.check(request.model_version, searches, self._max_batch_size, self._max_results)
        call.size = len(searches)
        self._batch_size.observe(call.size)
        snapshot = self._open_bundles.snapshot
        catalogue = _pick(snapshot, request, searches)
        call.model_version = catalogue.manifest.model_version
        call.bundle_version = catalogue.manifest.bundle_version
        return searches, catalogue, snapshot.open[0].bundle.manifest.model_version

    def _answer_group(self, group: Sequence[_Parsed]) -> Steps[None]:
        """Ranks the searches of calls to one catalogue together; if that fails, call by call, to find the bad one."""
        plans = [plan for parsed in group for plan in parsed.plans]
        failed, ranked = False, None
        try:
            ranked = yield from run_together([parsed.call for parsed in group], fusion.rank(group[0].catalogue, plans))
        except Exception:
            failed = True
            _log.exception(
                "searches of several calls failed together; they are run call by call",
                request_ids=[parsed.call.headers.request_id for parsed in group],
            )
        if failed:
            for parsed in group:
                parsed.call.response = (yield from parsed.call.run(self._answer_alone(parsed.call))) or b""
        if ranked is None:
            return
        hits = iter(ranked)
        if len(group) > 1:
            self._batched_searches.inc(len(plans))
        for parsed in group:
            response = yield from parsed.call.run(
                responses.build_steps(
                    parsed.catalogue, parsed.plans, list(islice(hits, len(parsed.plans))), parsed.newest_model_version
                )
            )
            parsed.call.response = response or b""


@dataclass(frozen=True, eq=False, slots=True)
class _Parsed:
    """The searches of a call.

    Attributes:
        call: The call.
        catalogue: Catalogue that answers it.
        plans: Its searches.
        newest_model_version: Model version of the newest open bundle.
    """

    call: Call
    catalogue: Catalogue
    plans: list[SearchPlan]
    newest_model_version: str


def methods(open_bundles: OpenBundles[Catalogue], config: AnnConfig, metrics: Metrics) -> list[Method]:
    """Returns the methods of the ANN service."""

    def status(_: Message) -> pb.GetServingStatusResponse:
        return _status(open_bundles, config)

    return [
        SearchItems(open_bundles, config, metrics),
        QuickMethod("GetServingStatus", pb.GetServingStatusRequest, status),
    ]


def _status(open_bundles: OpenBundles[Catalogue], config: AnnConfig) -> pb.GetServingStatusResponse:
    """Returns the open bundles, and the bundles that were refused."""
    snapshot = open_bundles.snapshot
    return build_status(
        pb.GetServingStatusResponse,
        open_bundles,
        snapshot,
        bundles=[_describe(open_bundle) for open_bundle in snapshot.open],
        max_batch_size=config.max_batch_size,
        max_k=config.max_k,
        newest_model_version=snapshot.open[0].bundle.manifest.model_version if snapshot.open else "",
    )


def _pick(snapshot: Snapshot[Catalogue], request: pb.SearchItemsRequest, searches: Sequence[pb.Search]) -> Catalogue:
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
    if catalogue.lexical is None and requests.needs_lexical(searches):
        with_lexical = [other.manifest.bundle_version for other in catalogues if other.lexical is not None]
        raise LexicalNotServed(catalogue.manifest.bundle_version, with_lexical)
    if catalogue.popularity is None and requests.needs_popularity(searches):
        with_popularity = [other.manifest.bundle_version for other in catalogues if other.popularity is not None]
        raise PopularityNotServed(catalogue.manifest.bundle_version, with_popularity)
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
        has_popularity=open_bundle.bundle.popularity is not None,
    )
