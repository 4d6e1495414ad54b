"""Replays recorded queries against two open bundles, and says how far their answers differ.

    recorded queries ─┬─► EmbedQueries, model of OLD ─► SearchItems, pinned to OLD ─┬─► overlap, correlation, shift
                      └─► EmbedQueries, model of NEW ─► SearchItems, pinned to NEW ─┘

Callers see nothing of it: both bundles are open anyway, and the live one goes on answering.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.agreement import count_bins, overlap, percentile, rank_correlation
from two_tower_client.ann import AnnClient, Search
from two_tower_client.errors import BundleNotServed, InvalidRequest, ModelNotServed, NoBundle
from two_tower_client.features import Features, to_query
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.recording import RecordedQuery
from two_tower_client.results import AttributeValue, Hit, Retrieval

_BATCH_SIZE = 32
_BIN_COUNT = 10
_EXAMPLE_COUNT = 5
_SCALARS = (query_pb2.FEATURE_KIND_CATEGORICAL, query_pb2.FEATURE_KIND_NUMERIC)
_VALUE_TYPES = {
    "strings": (query_pb2.VALUE_TYPE_STRING,),
    "ints": (query_pb2.VALUE_TYPE_INT, query_pb2.VALUE_TYPE_FLOAT),
    "floats": (query_pb2.VALUE_TYPE_FLOAT,),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is distributed over the queries: mean, 10th, 50th and 90th percentile, and of how many queries."""

    mean: float
    p10: float
    p50: float
    p90: float
    query_count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a query, as this client saw them: the time of each call divided by the queries in it."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """See `agreement.overlap`.

    Attributes:
        cutoff: How many items of each answer count.
        spread: Over the queries.
        bins: Queries with an overlap of 0 to 0.1, 0.1 to 0.2, and so on to 1.
    """

    cutoff: int
    spread: Spread
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bundles.

    Attributes:
        bundle_version: The bundle.
        model_version: Its model.
        top_score: Mean score of the first item.
        mean_score: Mean score of all items returned.
        embed: Of the query tower service.
        search: Of the ANN service.
        left_out: Queries a feature was left out of, by its name: the model does not know it, or reads another type.
    """

    bundle_version: str
    model_version: str
    top_score: float
    mean_score: float
    embed: Latency
    search: Latency
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A query that the two answer differently.

    Attributes:
        line: Where it stands in the file.
        features: What was sent.
        overlap: At the smallest cutoff.
        old: What the old bundle answers, up to that cutoff; attributes as asked for.
        new: What the new one answers.
    """

    line: int
    features: Features
    overlap: float
    old: tuple[Hit, ...]
    new: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What replaying the queries showed.

    Attributes:
        old: The bundle compared from.
        new: The bundle compared to.
        query_count: How many queries.
        k: How many items were asked for.
        overlaps: At 10 and 100, or at `k` where that is less.
        correlation: See `agreement.rank_correlation`; None if no query has two items in common.
        top_score_shift: New minus old mean score of the first item.
        mean_score_shift: New minus old mean score of all items returned.
        title: The attribute that examples show; empty if none.
        examples: Those that differ most, by overlap at the smallest cutoff, then at the largest.
    """

    old: Side
    new: Side
    query_count: int
    k: int
    overlaps: tuple[Overlap, ...]
    correlation: Spread | None
    top_score_shift: float
    mean_score_shift: float
    title: str
    examples: tuple[Example, ...]


def compare(
    query_tower: QueryTowerClient,
    ann: AnnClient,
    old: str,
    new: str,
    queries: Sequence[RecordedQuery],
    *,
    k: int = 100,
    title: str = "",
) -> Comparison:
    """Replays queries against two bundles.

    Args:
        query_tower: Has the models of both open.
        ann: Has both open. Of several replicas, each has to.
        old: Version of a bundle, or "live" or "previous": the first and second that are open.
        new: The same.
        queries: At least one.
        k: How many items to ask for.
        title: Item attribute to show in the examples. Default: none.

    Raises:
        BundleNotServed: If a bundle is not open; the message says which are.
        ModelNotServed: If the query tower does not have its model.
        NoBundle: If a service has none.
        InvalidRequest: If a bundle has no attribute `title`, or `k` is out of range.
        TwoTowerError: See `two_tower_client.errors`.
    """
    replays = _open_replays(query_tower, ann, (old, new), k, title)
    batch_size = min(_BATCH_SIZE, *(replay.max_batch_size for replay in replays))
    for number, batch in enumerate(_batches(queries, batch_size)):
        # In turn, so that neither gains from what the other has just warmed.
        for replay in replays if number % 2 == 0 else replays[::-1]:
            replay.answer([query.features for query in batch])
    first, second = replays
    pairs = list(zip(first.rankings, second.rankings, strict=True))
    cutoffs = sorted({min(10, k), min(100, k)})
    shares = {cutoff: [overlap(a, b, cutoff) for a, b in pairs] for cutoff in cutoffs}
    correlations = [value for a, b in pairs if (value := rank_correlation(a, b)) is not None]
    worst = sorted(range(len(pairs)), key=lambda row: (shares[cutoffs[0]][row], shares[cutoffs[-1]][row], row))
    differing = [row for row in worst if pairs[row][0] != pairs[row][1]][:_EXAMPLE_COUNT]
    old_side, new_side = first.to_side(), second.to_side()
    return Comparison(
        old_side,
        new_side,
        query_count=len(queries),
        k=k,
        overlaps=tuple(
            Overlap(cutoff, _to_spread(values), count_bins(values, _BIN_COUNT)) for cutoff, values in shares.items()
        ),
        correlation=_to_spread(correlations) if correlations else None,
        top_score_shift=new_side.top_score - old_side.top_score,
        mean_score_shift=new_side.mean_score - old_side.mean_score,
        title=title,
        examples=_to_examples(replays, queries, differing, shares[cutoffs[0]], cutoffs[0], batch_size),
    )


class _Replay:
    """One bundle under replay, and what it answered so far."""

    def __init__(
        self,
        query_tower: QueryTowerClient,
        ann: AnnClient,
        bundle: ann_pb2.OpenBundle,
        model: query_pb2.OpenModel,
        max_batch_size: int,
        k: int,
        title: str,
    ) -> None:
        self._query_tower, self._ann, self._bundle = query_tower, ann, bundle
        self._known = {feature.name: feature for feature in model.features}
        self._k, self._title = k, title
        self._embed_ms, self._search_ms = list[float](), list[float]()
        self._top_scores, self._mean_scores = list[float](), list[float]()
        self._left_out = Counter[str]()
        self.max_batch_size = max_batch_size
        self.rankings = list[tuple[str, ...]]()

    def answer(self, batch: Sequence[Features]) -> None:
        """Embeds and searches a batch; notes rankings, scores and times."""
        known = [self._select(features) for features in batch]
        for features, selected in zip(batch, known, strict=True):
            self._left_out.update(features.keys() - selected.keys())
        retrievals, embed_s, search_s = self._retrieve(known)
        self._embed_ms.append(1000 * embed_s / len(batch))
        self._search_ms.append(1000 * search_s / len(batch))
        for retrieval in retrievals:
            self.rankings.append(retrieval.item_ids)
            if retrieval.scores:
                self._top_scores.append(retrieval.scores[0])
                self._mean_scores.append(_mean(retrieval.scores))

    def look_up(self, batch: Sequence[Features], count: int) -> list[tuple[Hit, ...]]:
        """Returns the first `count` items of each query with their titles; asked apart, so that no time counts them."""
        retrievals, _, _ = self._retrieve([self._select(features) for features in batch], self._title)
        return [tuple(retrieval)[:count] for retrieval in retrievals]

    def to_side(self) -> Side:
        return Side(
            self._bundle.bundle_version,
            self._bundle.model_version,
            _mean(self._top_scores),
            _mean(self._mean_scores),
            Latency(percentile(self._embed_ms, 0.5), percentile(self._embed_ms, 0.99)),
            Latency(percentile(self._search_ms, 0.5), percentile(self._search_ms, 0.99)),
            dict(sorted(self._left_out.items())),
        )

    def _retrieve(self, batch: Sequence[Features], title: str = "") -> tuple[Sequence[Retrieval], float, float]:
        model, bundle = self._bundle.model_version, self._bundle.bundle_version
        attributes = [title] if title else []
        started_s = time.perf_counter()
        embeddings = self._query_tower.embed(batch, model)
        embedded_s = time.perf_counter()
        searches = [Search(embedding=vector, k=self._k, return_attributes=attributes) for vector in embeddings.vectors]
        try:
            answer = self._ann.search(searches, model_version=model, bundle_version=bundle)
        except BundleNotServed as error:
            raise BundleNotServed(
                f"{bundle} is no longer open at {self._ann.target}; open are {_series(error.bundle_versions)}; "
                "compare two of those",
                error.bundle_versions,
            ) from error
        return answer.retrievals, embedded_s - started_s, time.perf_counter() - embedded_s

    def _select(self, features: Features) -> Features:
        sent = to_query(features).features
        return {
            name: value
            for name, value in features.items()
            if name not in sent or (name in self._known and _fits(self._known[name], sent[name]))
        }


def _open_replays(
    query_tower: QueryTowerClient, ann: AnnClient, names: tuple[str, str], k: int, title: str
) -> tuple[_Replay, _Replay]:
    tower, catalogues = query_tower.status(), ann.status()
    if not tower.models or not catalogues.bundles:
        target = ann.target if tower.models else query_tower.target
        raise NoBundle(f"{target} has loaded no bundle yet; publish two, or retry in a while")
    if not 1 <= k <= catalogues.max_k:
        raise InvalidRequest.in_field("--k", f"has to be 1 to {catalogues.max_k}, got {k}")

    def open_replay(flag: str, name: str) -> _Replay:
        bundle = _find_bundle(flag, name, catalogues.bundles, ann.target)
        model = _find_model(bundle, tower.models, query_tower.target)
        attributes = sorted(attribute.name for attribute in bundle.attributes)
        if title and title not in attributes:
            raise InvalidRequest.in_field(
                "--title",
                f"items of bundle {bundle.bundle_version} have no attribute {title!r}; there are {_series(attributes)}",
            )
        max_batch_size = min(tower.max_batch_size, catalogues.max_batch_size)
        return _Replay(query_tower, ann, bundle, model, max_batch_size, k, title)

    return open_replay("--from", names[0]), open_replay("--to", names[1])


def _find_bundle(flag: str, name: str, bundles: Sequence[ann_pb2.OpenBundle], target: str) -> ann_pb2.OpenBundle:
    versions = tuple(bundle.bundle_version for bundle in bundles)
    position = {"live": 0, "previous": 1}.get(name)
    if position is not None and position < len(bundles):
        return bundles[position]
    if name not in versions:
        what = "no previous bundle" if name == "previous" else f"bundle {name}, which is not open"
        raise BundleNotServed(f"{flag}: {target} has {what}; open are {_series(versions)}, the live one first", versions)
    return bundles[versions.index(name)]


def _find_model(
    bundle: ann_pb2.OpenBundle, models: Sequence[query_pb2.OpenModel], target: str
) -> query_pb2.OpenModel:
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
    kind = values.WhichOneof("kind")
    if kind is None or feature.value_type not in _VALUE_TYPES[kind]:
        return False
    return feature.kind not in _SCALARS or len(getattr(values, kind).values) == 1


def _to_examples(
    replays: tuple[_Replay, _Replay],
    queries: Sequence[RecordedQuery],
    rows: Sequence[int],
    shares: Sequence[float],
    cutoff: int,
    batch_size: int,
) -> tuple[Example, ...]:
    examples = list[Example]()
    for batch in _batches(rows, batch_size):
        old, new = (replay.look_up([queries[row].features for row in batch], cutoff) for replay in replays)
        examples += [
            Example(queries[row].line, queries[row].features, shares[row], a, b)
            for row, a, b in zip(batch, old, new, strict=True)
        ]
    return tuple(examples)


def to_text(value: AttributeValue) -> str:
    """Returns an attribute as a person reads it; empty where an item has none."""
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _to_spread(values: Sequence[float]) -> Spread:
    p10, p50, p90 = (percentile(values, share) for share in (0.1, 0.5, 0.9))
    return Spread(_mean(values), p10, p50, p90, len(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _series(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
