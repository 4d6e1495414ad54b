"""What a retrieve returns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

AttributeValue = str | int | float | tuple[str, ...] | None
"""The value of one attribute of one item; None where the item has none."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved item.

    Attributes:
        item_id: The external id.
        score: As in `Retrieval.scores`; larger is better.
        attributes: The attributes asked for, by name.
    """

    item_id: str
    score: float
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The nearest items, best first, as parallel tuples; iterating yields each as a `Hit`.

    Attributes:
        item_ids: [n] external ids, n at most `k`.
        scores: [n] descending: cosine similarities, -1 to 1; BM25 scores, above 0, where a text ranked alone; sums of
            reciprocal ranks, above 0, where both were fused.
        attributes: For each attribute asked for, [n] values; None where an item has none.
        model_version: The model that embedded query and items alike; of the bundle, where no query was embedded.
        bundle_version: The bundle that answered.

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

    def __len__(self) -> int:
        """Returns how many items came back."""
        return len(self.item_ids)

    def __iter__(self) -> Iterator[Hit]:
        """Yields the items, best first."""
        for position, (item_id, score) in enumerate(zip(self.item_ids, self.scores, strict=True)):
            yield Hit(item_id, score, {name: values[position] for name, values in self.attributes.items()})


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings of a batch of queries, and the model that they belong to.

    Attributes:
        vectors: [batch][dim] floats, unit length.
        model_version: The model that made them. Search with this one, never with another.
    """

    vectors: tuple[tuple[float, ...], ...]
    model_version: str


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The results of the searches of one call, all from one bundle.

    Attributes:
        retrievals: One for each search, in the order of the call.
        model_version: The model of the bundle that answered.
        bundle_version: That bundle.
        newest_model_version: The model that is live at the replica that answered: embed the next query with it.
    """

    retrievals: tuple[Retrieval, ...]
    model_version: str
    bundle_version: str
    newest_model_version: str
