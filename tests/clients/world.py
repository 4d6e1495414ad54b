"""Both services with three known items, scripted by the tests.

Embeddings have two dimensions. The embedding of `{"age": 0}` points east, that of `{"age": 90}` north. Model "m2" swaps
the two dimensions, so an embedding of one model ranks the items of the other in the wrong order.

    item       m1          title      year  genres
    east       (1, 0)      East       1990  Comedy
    north      (0, 1)      (none)     2000  Drama
    northeast  (0.6, 0.8)  Northeast  2010  Comedy, Drama
"""

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc

VECTORS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "northeast": (0.6, 0.8)}
TITLES = {"east": "East", "northeast": "Northeast"}
YEARS = {"east": 1990, "north": 2000, "northeast": 2010}
GENRES = {"east": ["Comedy"], "north": ["Drama"], "northeast": ["Comedy", "Drama"]}

Failure = tuple[grpc.StatusCode, str, list]


def error_info(code: grpc.StatusCode, reason: str, domain: str = "two-tower", **metadata: str) -> Failure:
    return code, "as scripted", [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)]


def bad_request(*violations: tuple[str, str]) -> Failure:
    fields = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in violations]
    return grpc.StatusCode.INVALID_ARGUMENT, "as scripted", [error_details_pb2.BadRequest(field_violations=fields)]


def bare(code: grpc.StatusCode, text: str = "as scripted") -> Failure:
    return code, text, []


def overloaded(retry_after_s: float | None = None, pushback_ms: str = "") -> Failure:
    """A refusal. A pair among the details is trailing metadata."""
    code, text, details = error_info(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    if retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay={"nanos": round(retry_after_s * 1e9)}))
    if pushback_ms:
        details.append(("grpc-retry-pushback-ms", pushback_ms))
    return code, text, details


def abort(context: grpc.ServicerContext, failure: Failure) -> None:
    code, text, details = failure
    trailing = [detail for detail in details if isinstance(detail, tuple)]
    if details:
        status = status_pb2.Status(code=code.value[0], message=text)
        for detail in details:
            if not isinstance(detail, tuple):
                status.details.add().Pack(detail)
        trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    context.set_trailing_metadata(tuple(trailing))
    context.abort(code, text)


class Scripted:
    """Base class of both services.

    Args:
        bundles: Open bundles as pairs of bundle and model version, the live one first.
        token: Token that calls have to carry; empty for none.

    Attributes:
        failures: Answers to the next calls, before regular answers.
        always: Answer to every call, if it is set.
        received_s: Time of each call, in seconds of the monotonic clock.
        metadata: Metadata of each call.
    """

    def __init__(self, *bundles: tuple[str, str], token: str = "") -> None:
        self.bundles = list(bundles)
        self.token = token
        self.failures: deque[Failure] = deque()
        self.always: Failure | None = None
        self.requests: list = []
        self.received_s: list[float] = []
        self.metadata: list[dict] = []
        self.timeouts_s: list[float] = []
        self.hang = False
        self.problems: list[tuple[str, str, str]] = []
        self.loading = ""
        self.worker_count = 1
        self.store: str | None = None
        self.on_status: Callable[[], None] = lambda: None

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for _, model in self.bundles))

    def receive(self, request: object, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.received_s.append(time.monotonic())
        self.metadata.append(dict(context.invocation_metadata()))
        self.timeouts_s.append(context.time_remaining())
        if self.hang:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(10)
        if self.token and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            abort(context, bare(grpc.StatusCode.UNAUTHENTICATED, "no valid token"))
        if self.always:
            abort(context, self.always)
        if self.failures:
            abort(context, self.failures.popleft())

    def refuse_model(self, context: grpc.ServicerContext) -> None:
        abort(
            context,
            error_info(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_SERVED", model_versions=",".join(self.models)),
        )

    def describe(self, response: object) -> None:
        self.on_status()
        response.newest_model_version = self.models[0] if self.bundles else ""
        response.live_bundle_version = self.store if self.store is not None else (self.bundles or [("", "")])[0][0]
        response.loading_bundle_version = self.loading
        response.worker_count = self.worker_count
        for bundle, gate, message in self.problems:
            response.problems.add(bundle_version=bundle, gate=gate, message=message)


class ScriptedQueryTower(Scripted, query_grpc.QueryTowerServiceServicer):
    def EmbedQueries(self, request, context):
        self.receive(request, context)
        model = request.model_version or self.models[0]
        if model not in self.models:
            self.refuse_model(context)
        response = query_pb2.EmbedQueriesResponse(model_version=model)
        self.unknown: list[int] = []
        for query in request.queries:
            age = query.features["age"]
            angle = math.radians((list(age.floats.values) + list(age.ints.values) or [0])[0])
            values = [math.cos(angle), math.sin(angle)]
            self.unknown.append(len([value for value in query.features["history"].strings.values if value == "typo"]))
            response.embeddings.add(values=values if model == "m1" else values[::-1])
        response.unknown_values.extend(self.unknown if any(self.unknown) else [])
        return response

    def GetServingStatus(self, request, context):
        self.receive(request, context)
        response = query_pb2.GetServingStatusResponse(max_batch_size=32)
        self.describe(response)
        for bundle, model in self.bundles:
            opened = response.models.add(model_version=model, bundle_version=bundle, dimension=2, opened_at_ms=1_000)
            opened.features.add(
                name="age", kind=query_pb2.FEATURE_KIND_NUMERIC, value_type=query_pb2.VALUE_TYPE_FLOAT, max_values=1
            )
            opened.features.add(
                name="history",
                kind=query_pb2.FEATURE_KIND_HISTORY,
                value_type=query_pb2.VALUE_TYPE_STRING,
                max_values=50,
            )
        return response


class ScriptedAnn(Scripted, ann_grpc.AnnServiceServicer):
    def SearchItems(self, request, context):
        self.receive(request, context)
        model = request.model_version or self.models[0]
        if model not in self.models:
            self.refuse_model(context)
        bundle = next(bundle for bundle, bundle_model in self.bundles if bundle_model == model)
        unknown = [item for search in request.searches for item in search.similar_to.values if item not in VECTORS]
        if unknown:
            abort(context, error_info(grpc.StatusCode.NOT_FOUND, "UNKNOWN_ITEM", item_ids=",".join(unknown[:10])))
        response = ann_pb2.SearchItemsResponse(
            model_version=model, bundle_version=bundle, newest_model_version=self.models[0]
        )
        for search in request.searches:
            self._search(search, model, response.results.add())
        return response

    def GetServingStatus(self, request, context):
        self.receive(request, context)
        response = ann_pb2.GetServingStatusResponse(max_batch_size=32, max_k=100)
        self.describe(response)
        for bundle, model in self.bundles:
            opened = response.bundles.add(bundle_version=bundle, model_version=model, item_count=3, opened_at_ms=2_000)
            opened.attributes.add(name="title", type=ann_pb2.ATTRIBUTE_TYPE_STRING)
            opened.attributes.add(name="year", type=ann_pb2.ATTRIBUTE_TYPE_INT)
            opened.attributes.add(name="genres", type=ann_pb2.ATTRIBUTE_TYPE_STRING_LIST)
        return response

    def _search(self, search: ann_pb2.Search, model: str, result: ann_pb2.SearchResult) -> None:
        vectors = {item: values if model == "m1" else values[::-1] for item, values in VECTORS.items()}
        similar_to = search.similar_to.values
        if search.ranking == ann_pb2.RANKING_LEXICAL:
            # The score of an item whose title contains the text is the length of the title.
            scores = {item: float(len(title)) for item, title in TITLES.items() if search.text in title.lower()}
        elif search.HasField("popular"):
            scores = {"east": 0.5, "north": 0.3, "northeast": 0.2}
        else:
            target = vectors[similar_to[0]] if similar_to else search.embedding.values
            scores = {item: sum(a * b for a, b in zip(target, values, strict=True)) for item, values in vectors.items()}
        kept = [
            item
            for item in sorted(scores, key=lambda item: -scores[item])
            if item not in {*similar_to, *search.exclude_item_ids}
            and (not search.HasField("filter") or matches(search.filter, item))
            and (not search.HasField("min_score") or scores[item] >= search.min_score)
        ][: search.k]
        result.item_ids.extend(kept)
        result.scores.extend(scores[item] for item in kept)
        for name in search.return_attributes:
            column = result.attributes.add(name=name)
            if name == "title":
                column.strings.values.extend(TITLES.get(item, "") for item in kept)
                column.missing.extend(position for position, item in enumerate(kept) if item not in TITLES)
            elif name == "year":
                column.ints.values.extend(YEARS[item] for item in kept)
            else:
                column.string_lists.values.extend(ann_pb2.StringColumn(values=GENRES[item]) for item in kept)


def matches(condition: ann_pb2.Filter, item: str) -> bool:
    kind = condition.WhichOneof("condition")
    if kind == "all_of":
        return all(matches(each, item) for each in condition.all_of.filters)
    if kind == "not":
        return not matches(getattr(condition, "not"), item)
    if kind == "range":
        low = condition.range.min if condition.range.HasField("min") else -math.inf
        high = condition.range.max if condition.range.HasField("max") else math.inf
        return low <= YEARS[item] <= high
    if condition.equals.attribute == "year":
        return condition.equals.value.int_value == YEARS[item]
    return condition.equals.value.string_value in GENRES[item]


@contextmanager
def serving(*services: Scripted) -> Iterator[list[str]]:
    """Yields the address of each service. Each has its own server."""
    servers, addresses = [], []
    with ThreadPoolExecutor(max_workers=8) as threads:
        for service in services:
            # With port reuse two servers could get the same port and share its calls.
            server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
            if isinstance(service, ScriptedQueryTower):
                query_grpc.add_QueryTowerServiceServicer_to_server(service, server)
            else:
                ann_grpc.add_AnnServiceServicer_to_server(service, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            servers.append(server)
        try:
            yield addresses
        finally:
            for server in servers:
                server.stop(None).wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
