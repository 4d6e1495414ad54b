"""The results of the clients: embeddings, and ranked items."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

AttributeValue = str | int | float | tuple[str, ...] | None
"""The value of an attribute of an item; None if the item has no value."""


StoredFeatures = Literal["", "used", "unknown_user", "unavailable", "not_configured"]
"""What the feature store did for a query: nothing, because the query names no user (""); its features were used; it
does not know the user; it did not answer in time; or the service has no feature store."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved item.

    Attributes:
        item_id: External id of the item.
        score: Score of the item, in the unit of `Retrieval.scores`. Larger is better.
        attributes: The requested attributes of the item, by name.
    """

    item_id: str
    score: float
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])


@dataclass(frozen=True, slots=True)
class FacetCounts:
    """How many candidates of a search have each value of an attribute.

    Attributes:
        counts: Number of candidates by value, largest first; of equal counts, smaller values first. For a list
            attribute, by each value of the lists.
        distinct_count: Number of distinct values of the candidates, of which `counts` has the largest.
        missing_count: Number of candidates without a value.
    """

    counts: Mapping[str | int | float, int]
    distinct_count: int
    missing_count: int


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The best items for one query, best first, as parallel tuples. Iterating yields a `Hit` for each item.

    Attributes:
        item_ids: [n] external ids, n at most `k`.
        scores: [n] in descending order, unless boosts or diversity decide the order. With ranking "embedding": cosine
            similarities, -1 to 1. With "lexical": BM25 scores, above 0. With "fused": sums of reciprocal ranks, above
            0. Popular items: shares in the training events of all items, 0 to 1.
        attributes: [n] values of each requested attribute, by name. None for an item without a value.
        model_version: The model of the bundle that answered. It embedded the items, and the query if one was
            embedded.
        bundle_version: The bundle that answered.
        unknown_values: Number of values of the query that are in no vocabulary of the model, such as ids of items that
            it has never seen. Many of them are a sign of a typo, or of ids of another system.
        fallback_reason: Why these are popular items instead of those for the query: the class of the error and its
            message, as in "Unavailable: localhost:50051 is unavailable; …". Empty if this is not a fallback.
        coverage: Share of the items of the bundle that were searched. It is below 1 only if the catalogue is in shards,
            some of them did not answer, and the service allows partial answers.
        boosts: [n] sums of the weights of the boosts that each item matches; empty without boosts.
        marginal_relevances: [n] marginal relevances with which the items were chosen; empty without diversity. See
            `Diversify`.
        facets: Counts over the candidates, by attribute.
        candidate_count: Number of candidates; 0 without boosts, diversity, group limits and facets.
        shortened_by_group_limits: Whether there are fewer than `k` items because all other candidates are in full
            groups. A larger `candidates_limit` may find more.
        stored_features: What the feature store did for the query; "" if it names no user.

    Example:
        >>> retrieval = Retrieval(("50", "181"), (0.9, 0.8), {"title": ("Star Wars", None)}, "m1", "b1")
        >>> [(hit.item_id, hit.attributes["title"]) for hit in retrieval]
        [('50', 'Star Wars'), ('181', None)]
    """

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    attributes: Mapping[str, tuple[AttributeValue, ...]]
    model_version: str
    bundle_version: str
    fallback_reason: str = ""
    unknown_values: int = 0
    coverage: float = 1.0
    boosts: tuple[float, ...] = ()
    marginal_relevances: tuple[float, ...] = ()
    facets: Mapping[str, FacetCounts] = field(default_factory=dict[str, FacetCounts])
    candidate_count: int = 0
    shortened_by_group_limits: bool = False
    stored_features: StoredFeatures = ""

    @property
    def is_fallback(self) -> bool:
        """Whether these are popular items instead of those for the query; see `Retriever.retrieve`."""
        return bool(self.fallback_reason)

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self.item_ids)

    def __iter__(self) -> Iterator[Hit]:
        """Yields the items, best first."""
        for position, (item_id, score) in enumerate(zip(self.item_ids, self.scores, strict=True)):
            yield Hit(item_id, score, {name: values[position] for name, values in self.attributes.items()})


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings of a batch of queries.

    Attributes:
        vectors: [batch][dim] floats, unit length.
        model_version: The model that made the embeddings. Search with this model only.
        unknown_values: [batch] number of values of each query that are in no vocabulary of the model; empty if there
            are none.
        stored_features: [batch] what the feature store did for each query; empty if no query names a user.
        histories: [batch] item ids of the history of each query, oldest first; empty if they were not asked for.
    """

    vectors: tuple[tuple[float, ...], ...]
    model_version: str
    unknown_values: tuple[int, ...] = ()
    stored_features: tuple[StoredFeatures, ...] = ()
    histories: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The results of one SearchItems call, all from one bundle.

    Attributes:
        retrievals: One retrieval for each search, in the order of the request.
        model_version: The model of the bundle that answered.
        bundle_version: The bundle that answered.
        newest_model_version: The model that is live at the replica that answered. Embed the next query with it.
        coverage: Share of the items of the bundle that were searched; see `Retrieval.coverage`.
    """

    retrievals: tuple[Retrieval, ...]
    model_version: str
    bundle_version: str
    newest_model_version: str
    coverage: float = 1.0
