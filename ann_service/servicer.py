"""The RPCs of the ANN service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
from google.protobuf.message import Message

from ann_service import answers, decoding, fusion, requests, responses
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.plan import SearchPlan
from ann_service.served import Served, pick
from ann_service.shards import front
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.serving.answering.call import SMALL_BYTES, Call, Method, run_together
from retrieval.serving.answering.quick_method import QuickMethod
from retrieval.serving.bundles.open_bundle import OpenBundle
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.status import build_status
from retrieval.serving.runtime.credentials import READ
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


class SearchItems:
    """The method SearchItems: one result for each search of a request, all from one bundle.

    ```
    each call: decode ─► check ─► pick a catalogue ─► parse ─┐
                                                             ├─► rank together ─► each call: build the response
    other calls that wait: the same ─────────────────────────┘
    ```

    Attributes:
        name, max_shared, scope, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    name = "SearchItems"
    max_shared = 64
    scope = READ
    is_quick = False

    def __init__(self, open_bundles: OpenBundles[Served], config: AnnConfig, metrics: Metrics) -> None:
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
        in_shards: defaultdict[int, list[_Opened]] = defaultdict(list)
        for call in calls:
            opened = yield from call.run(self._open(call))
            if opened is None:
                continue
            catalogue = opened.catalogue
            if isinstance(catalogue, ShardedCatalogue):
                in_shards[id(catalogue)].append(opened)
            else:
                parsed = yield from call.run(self._parse(opened, catalogue))
                if parsed is not None:
                    by_catalogue[id(parsed.catalogue)].append(parsed)
        for group in by_catalogue.values():
            yield from self._answer_group(group)
        for sharded in in_shards.values():
            yield from self._answer_by_shards(sharded)

    def _answer_alone(self, call: Call) -> Steps[bytes]:
        """Returns the response to a call, however many searches it has.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        opened = yield from self._open(call)
        if isinstance(opened.catalogue, ShardedCatalogue):
            return (yield from front.answer_alone(opened.catalogue, opened.to_ask(), self._max_k))
        return (yield from answers.answer(opened.searches, opened.catalogue, opened.newest_model_version, self._max_k))

    def _parse(self, opened: _Opened, catalogue: Catalogue) -> Steps[_Parsed]:
        """Returns the parsed searches of a small call.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        plans = yield from requests.parse(opened.searches, catalogue, self._max_k)
        return _Parsed(opened.call, catalogue, plans, opened.newest_model_version)

    def _open(self, call: Call) -> Steps[_Opened]:
        """Returns the searches of a call, the catalogue that answers them, and the model of the newest bundle.

        Raises:
            ServiceError: one of those that the proto lists.
        """
        request, searches = yield from decoding.decode_request(call.body, self._max_batch_size)
        requests.check(request.model_version, searches, self._max_batch_size, self._max_results)
        call.size = len(searches)
        self._batch_size.observe(call.size)
        snapshot = self._open_bundles.snapshot
        catalogue = pick(snapshot, request, searches)
        call.model_version = catalogue.manifest.model_version
        call.bundle_version = catalogue.manifest.bundle_version
        return _Opened(call, catalogue, searches, snapshot.open[0].bundle.manifest.model_version)

    def _answer_by_shards(self, group: Sequence[_Opened]) -> Steps[None]:
        """Answers calls to one catalogue in shards together; if that fails, call by call, to find the bad one."""
        catalogue = group[0].catalogue
        assert isinstance(catalogue, ShardedCatalogue)
        try:
            yield from front.answer(catalogue, [opened.to_ask() for opened in group], self._max_k)
            self._batched_searches.inc(sum(len(opened.searches) for opened in group))
            return
        except Exception:
            _log.exception(
                "calls failed together; they are answered call by call",
                request_ids=[opened.call.headers.request_id for opened in group],
            )
        for opened in group:
            opened.call.error = None
            opened.call.response = (yield from opened.call.run(self._answer_alone(opened.call))) or b""

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
class _Opened:
    """A call that was decoded and checked.

    Attributes:
        call: The call.
        catalogue: Catalogue that answers it.
        searches: Its searches.
        newest_model_version: Model version of the newest open bundle.
    """

    call: Call
    catalogue: Served
    searches: Sequence[pb.Search]
    newest_model_version: str

    def to_ask(self) -> front.Asked:
        """Returns the call as the front of the shards takes it."""
        return front.Asked(self.call, self.searches, self.newest_model_version)


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


def methods(open_bundles: OpenBundles[Served], config: AnnConfig, metrics: Metrics) -> list[Method]:
    """Returns the methods of the ANN service."""

    def status(_: Message) -> pb.GetServingStatusResponse:
        return _status(open_bundles, config)

    return [
        SearchItems(open_bundles, config, metrics),
        QuickMethod("GetServingStatus", pb.GetServingStatusRequest, status),
    ]


def _status(open_bundles: OpenBundles[Served], config: AnnConfig) -> pb.GetServingStatusResponse:
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


def _describe(open_bundle: OpenBundle[Served]) -> pb.OpenBundle:
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
        lexical_attributes=open_bundle.bundle.lexical_attributes,
        has_popularity=open_bundle.bundle.has_popularity,
        shard_count=max(1, len(manifest.shards)),
    )
