"""Replays queries against one open bundle, and records its rankings, scores and latencies."""

import time
from collections import Counter
from collections.abc import Sequence

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.ann import AnnClient
from two_tower_client.errors import BundleNotServed, InvalidRequest, ModelNotServed, NoBundle
from two_tower_client.features import Features, to_query
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.results import Hit, Retrieval
from two_tower_client.search import Search, with_embeddings

_SCALARS = (
    query_pb2.FEATURE_KIND_CATEGORICAL,
    query_pb2.FEATURE_KIND_NUMERIC,
    query_pb2.FEATURE_KIND_TEXT,
    query_pb2.FEATURE_KIND_TIME,
)
_VALUE_TYPES = {
    "strings": (query_pb2.VALUE_TYPE_STRING,),
    "ints": (query_pb2.VALUE_TYPE_INT, query_pb2.VALUE_TYPE_FLOAT),
    "floats": (query_pb2.VALUE_TYPE_FLOAT,),
}


class Replay:
    """Replays queries against one open bundle.

    Args:
        query_tower: Client of a query tower service with the model of the bundle.
        ann: Client of an ANN service with the bundle.
        bundle: Bundle to search.
        model: Model of the bundle.
        max_batch_size: Largest number of queries in one call.
        k: Number of items per query.
        title: Item attribute that `look_up` returns; empty for none.

    Attributes:
        bundle_version: Version of the bundle.
        model_version: Version of its model.
        max_batch_size: Largest number of queries in one call.
        rankings: Item ids of each query, best first.
        top_scores: Score of the first item of each query that has items.
        mean_scores: Mean score of the items of each query that has items.
        embed_ms: Duration of each EmbedQueries call, in milliseconds per query.
        search_ms: Duration of each SearchItems call, in milliseconds per query.
        left_out: Number of queries without a feature that was recorded, by feature name, because the model does not
            read it or reads another type.
    """

    def __init__(
        self,
        query_tower: QueryTowerClient,
        ann: AnnClient,
        bundle: ann_pb2.OpenBundle,
        model: query_pb2.OpenModel,
        *,
        max_batch_size: int,
        k: int,
        title: str,
    ) -> None:
        self._query_tower, self._ann = query_tower, ann
        self._schema = {feature.name: feature for feature in model.features}
        self._k, self._title = k, title
        self.bundle_version, self.model_version = bundle.bundle_version, bundle.model_version
        self.max_batch_size = max_batch_size
        self.rankings = list[tuple[str, ...]]()
        self.top_scores, self.mean_scores = list[float](), list[float]()
        self.embed_ms, self.search_ms = list[float](), list[float]()
        self.left_out = Counter[str]()

    def answer(self, batch: Sequence[Features]) -> None:
        """Embeds and searches a batch, and records rankings, scores and durations.

        Raises:
            BundleNotServed: If the bundle is no longer open.
            TwoTowerError: See `two_tower_client.errors`.
        """
        readable = [self._select(features) for features in batch]
        for features, selected in zip(batch, readable, strict=True):
            self.left_out.update(features.keys() - selected.keys())
        retrievals, embed_s, search_s = self._retrieve(readable)
        self.embed_ms.append(1000 * embed_s / len(batch))
        self.search_ms.append(1000 * search_s / len(batch))
        for retrieval in retrievals:
            self.rankings.append(retrieval.item_ids)
            if retrieval.scores:
                self.top_scores.append(retrieval.scores[0])
                self.mean_scores.append(sum(retrieval.scores) / len(retrieval.scores))

    def look_up(self, features: Features, count: int) -> tuple[Hit, ...]:
        """Returns the first `count` items of a query with their titles. Its calls are not recorded."""
        retrievals, _, _ = self._retrieve([self._select(features)], self._title)
        return tuple(retrievals[0])[:count]

    def _retrieve(self, batch: Sequence[Features], title: str = "") -> tuple[Sequence[Retrieval], float, float]:
        model, bundle = self.model_version, self.bundle_version
        attributes = [title] if title else []
        started_s = time.perf_counter()
        embeddings = self._query_tower.embed(batch, model)
        embedded_s = time.perf_counter()
        searches = [Search(k=self._k, return_attributes=attributes)] * len(batch)
        try:
            answer = self._ann.search(with_embeddings(searches, embeddings), model_version=model, bundle_version=bundle)
        except BundleNotServed as error:
            raise BundleNotServed(
                f"{bundle} is no longer open at {self._ann.target}; open are {_series(error.bundle_versions)}; "
                "compare two of those",
                error.bundle_versions,
            ) from error
        return answer.retrievals, embedded_s - started_s, time.perf_counter() - embedded_s

    def _select(self, features: Features) -> Features:
        """Returns the features that the model can read."""
        sent = to_query(features).features
        kept = {
            name: value
            for name, value in features.items()
            if name not in sent or (name in self._schema and _fits(self._schema[name], sent[name]))
        }
        # A feature of the events of a history is meaningless without the history.
        orphaned = {name for name in kept if name in sent and self._schema[name].history not in ("", *kept)}
        return {name: value for name, value in kept.items() if name not in orphaned}


def open_replays(
    query_tower: QueryTowerClient, ann: AnnClient, names: tuple[str, str], k: int, title: str
) -> tuple[Replay, Replay]:
    """Returns the replays of two bundles.

    Args:
        query_tower: Client of a query tower service with the models of both bundles.
        ann: Client of an ANN service with both bundles.
        names: Version of each bundle, or "live" or "previous".
        k: Number of items per query.
        title: Item attribute to look up; empty for none.

    Raises:
        BundleNotServed: If a bundle is not open. The message names the open bundles.
        ModelNotServed: If the model of a bundle is not open at the query tower service.
        NoBundle: If a service has no bundle open.
        InvalidRequest: If a bundle has no attribute `title`, or `k` is out of range.
    """
    tower, catalogues = query_tower.status(), ann.status()
    if not tower.models or not catalogues.bundles:
        target = ann.target if tower.models else query_tower.target
        raise NoBundle(f"{target} has loaded no bundle yet; publish two, or retry in a while")
    if not 1 <= k <= catalogues.max_k:
        raise InvalidRequest.in_field("--k", f"has to be 1 to {catalogues.max_k}, got {k}")

    def open_replay(flag: str, name: str) -> Replay:
        bundle = _find_bundle(flag, name, catalogues.bundles, ann.target)
        model = _find_model(bundle, tower.models, query_tower.target)
        attributes = sorted(attribute.name for attribute in bundle.attributes)
        if title and title not in attributes:
            raise InvalidRequest.in_field(
                "--title",
                f"items of bundle {bundle.bundle_version} have no attribute {title!r}; there are {_series(attributes)}",
            )
        max_batch_size = min(tower.max_batch_size, catalogues.max_batch_size)
        return Replay(query_tower, ann, bundle, model, max_batch_size=max_batch_size, k=k, title=title)

    return open_replay("--from", names[0]), open_replay("--to", names[1])


def _find_bundle(flag: str, name: str, bundles: Sequence[ann_pb2.OpenBundle], target: str) -> ann_pb2.OpenBundle:
    versions = tuple(bundle.bundle_version for bundle in bundles)
    position = {"live": 0, "previous": 1}.get(name)
    if position is not None and position < len(bundles):
        return bundles[position]
    if name not in versions:
        fault = "there is no previous bundle" if name == "previous" else f"bundle {name} is not open"
        raise BundleNotServed(
            f"{flag}: {fault} at {target}; open are {_series(versions)}, the live one first", versions
        )
    return bundles[versions.index(name)]


def _find_model(bundle: ann_pb2.OpenBundle, models: Sequence[query_pb2.OpenModel], target: str) -> query_pb2.OpenModel:
    for model in models:
        if model.model_version == bundle.model_version:
            return model
    versions = tuple(model.model_version for model in models)
    raise ModelNotServed(
        f"{target} does not have model {bundle.model_version} of bundle {bundle.bundle_version} open; "
        f"it serves {_series(versions)}",
        versions,
    )


def _fits(feature: query_pb2.Feature, values: query_pb2.FeatureValues) -> bool:
    """Returns whether values have the type that a feature reads, and are single if it is a scalar."""
    kind = values.WhichOneof("kind")
    if kind is None or feature.value_type not in _VALUE_TYPES[kind]:
        return False
    return feature.kind not in _SCALARS or bool(feature.history) or len(getattr(values, kind).values) == 1


def _series(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
