"""Compares the results of two open bundles for recorded queries.

    recorded queries ─┬─► EmbedQueries, model of OLD ─► SearchItems, pinned to OLD ─┬─► agreement, score shift
                      └─► EmbedQueries, model of NEW ─► SearchItems, pinned to NEW ─┘

Other callers are not affected: both bundles are open anyway, and the live one continues to answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from two_tower_client.ann import AnnClient
from two_tower_client.cli.ranking_overlap import count_bins, overlap, percentile, rank_correlation
from two_tower_client.cli.recording import RecordedQuery
from two_tower_client.cli.replay import Replay, open_replays
from two_tower_client.features import Features
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.results import Hit

_BATCH_SIZE = 32
_BIN_COUNT = 10
_EXAMPLE_COUNT = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of a value over queries: mean, 10th, 50th and 90th percentile, and the number of queries."""

    mean: float
    p10: float
    p50: float
    p90: float
    query_count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency in milliseconds per query, measured at this client: duration of a call divided by its queries."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of the two rankings of each query; see `ranking_overlap.overlap`.

    Attributes:
        cutoff: Number of items of each ranking that are compared.
        spread: Distribution over the queries.
        bins: [10] numbers of queries with an overlap of 0 to 0.1, 0.1 to 0.2, and so on to 1.
    """

    cutoff: int
    spread: Spread
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bundles.

    Attributes:
        bundle_version: Version of the bundle.
        model_version: Version of its model.
        top_score: Mean score of the first item, over the queries.
        mean_score: Mean over the queries of the mean score of their items.
        embed: Latency of the query tower service.
        search: Latency of the ANN service.
        left_out: Number of queries without a feature that was recorded, by feature name, because the model does not
            read it or reads another type.
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
    """A query whose results differ.

    Attributes:
        line: Line number in the file of queries.
        features: Features of the query.
        overlap: Overlap at the smallest cutoff.
        old: Results of the old bundle, up to that cutoff, with the title attribute.
        new: Results of the new bundle, up to that cutoff, with the title attribute.
    """

    line: int
    features: Features
    overlap: float
    old: tuple[Hit, ...]
    new: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of a comparison.

    Attributes:
        old: Old bundle.
        new: New bundle.
        query_count: Number of replayed queries.
        k: Number of requested items per query.
        overlaps: Overlap at cutoffs 10 and 100, or at `k` if `k` is smaller.
        correlation: Rank correlation, see `ranking_overlap.rank_correlation`, over the queries with at least two
            common items; None if there are none.
        top_score_shift: Top score of the new bundle minus that of the old one.
        mean_score_shift: Mean score of the new bundle minus that of the old one.
        title: Item attribute of the examples; empty for none.
        examples: The five queries that differ most, by overlap at the smallest cutoff, then at the largest.
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
        query_tower: Client of a query tower service whose replicas have the models of both bundles open.
        ann: Client of an ANN service whose replicas have both bundles open.
        old: Version of the old bundle, or "live" or "previous": the first and the second open bundle.
        new: Version of the new bundle, or "live" or "previous".
        queries: Queries to replay, at least one.
        k: Number of items per query.
        title: Item attribute to look up for the examples. Default: none.

    Raises:
        BundleNotServed: If a bundle is not open. The message names the open bundles.
        ModelNotServed: If the model of a bundle is not open at the query tower service.
        NoBundle: If a service has no bundle open.
        InvalidRequest: If a bundle has no attribute `title`, or `k` is out of range.
        TwoTowerError: See `two_tower_client.errors`.
    """
    first, second = open_replays(query_tower, ann, (old, new), k, title)
    batch_size = min(_BATCH_SIZE, first.max_batch_size)
    for number, batch in enumerate(_batches(queries, batch_size)):
        # Alternate, so that neither bundle always profits from caches that the other has just filled.
        for replay in (first, second) if number % 2 == 0 else (second, first):
            replay.answer([query.features for query in batch])
    pairs = list(zip(first.rankings, second.rankings, strict=True))
    cutoffs = sorted({min(10, k), min(100, k)})
    shares = {cutoff: [overlap(a, b, cutoff) for a, b in pairs] for cutoff in cutoffs}
    correlations = [value for a, b in pairs if (value := rank_correlation(a, b)) is not None]
    shallow, deep = cutoffs[0], cutoffs[-1]
    differing = [row for row, (a, b) in enumerate(pairs) if a != b]
    differing.sort(key=lambda row: (shares[shallow][row], shares[deep][row]))
    old_side, new_side = _to_side(first), _to_side(second)
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
        examples=tuple(
            Example(
                queries[row].line,
                queries[row].features,
                shares[shallow][row],
                *(replay.look_up(queries[row].features, shallow) for replay in (first, second)),
            )
            for row in differing[:_EXAMPLE_COUNT]
        ),
    )


def _to_side(replay: Replay) -> Side:
    return Side(
        replay.bundle_version,
        replay.model_version,
        _mean(replay.top_scores),
        _mean(replay.mean_scores),
        Latency(percentile(replay.embed_ms, 0.5), percentile(replay.embed_ms, 0.99)),
        Latency(percentile(replay.search_ms, 0.5), percentile(replay.search_ms, 0.99)),
        dict(sorted(replay.left_out.items())),
    )


def _to_spread(values: Sequence[float]) -> Spread:
    p10, p50, p90 = (percentile(values, share) for share in (0.1, 0.5, 0.9))
    return Spread(_mean(values), p10, p50, p90, len(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _batches(queries: Sequence[RecordedQuery], size: int) -> Iterator[Sequence[RecordedQuery]]:
    for start in range(0, len(queries), size):
        yield queries[start : start + size]
