"""Replays recorded queries against two open bundles, and says how far their answers differ.

    recorded queries ─┬─► EmbedQueries, model of OLD ─► SearchItems, pinned to OLD ─┬─► overlap, correlation, shift
                      └─► EmbedQueries, model of NEW ─► SearchItems, pinned to NEW ─┘

Callers see nothing of it: both bundles are open anyway, and the live one goes on answering.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from two_tower_client.ann import AnnClient
from two_tower_client.cli.ranking_agreement import count_bins, overlap, percentile, rank_correlation
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
    first, second = open_replays(query_tower, ann, (old, new), k, title)
    batch_size = min(_BATCH_SIZE, first.max_batch_size)
    for number, batch in enumerate(_batches(queries, batch_size)):
        # In turn, so that neither gains from what the other has just warmed.
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
