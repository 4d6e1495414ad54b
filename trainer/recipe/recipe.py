"""The recipe: which tables, which features, which training. A TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from trainer.recipe.event_values import VALUES, AgeValue, GapValue, Value
from trainer.recipe.tables import STRICT, Attribute, Download, Entities, Interactions, Name
from trainer.recipe.text import TextInput
from trainer.recipe.training import Metric, Positive, Share, Training

ID = "id"
"""Name of no attribute: what reads the users and items tables calls their id so."""
USER_ID = "user_id"
ITEM_ID = "item_id"
"""Features of these names are the ids themselves; all others are attributes."""
CLOCK = ("hour", "weekday")
"""Query tower features of these names need no attribute where the interactions have a time."""


@dataclass(frozen=True, config=STRICT)
class CategoricalInput:
    """An attribute (or id) with an embedding for each value.

    Attributes:
        name: of the attribute, or ``user_id`` or ``item_id``.
        embedding_dim: length of its embeddings; ``item_id`` uses the tower's dimension instead.
        min_count: values seen fewer times in training share the out-of-vocabulary slot.
        hash_buckets: above 0: hashed to so many slots instead of a vocabulary.
        dropout: share of training rows in which the value is hidden, so that the tower learns to do without.
        description: for those who send it.
    """

    name: Name
    kind: Literal["categorical"]
    embedding_dim: Positive = 16
    min_count: Positive = 1
    hash_buckets: Annotated[int, Field(ge=0)] = 0
    dropout: Share = 0.0
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class MultiCategoricalInput:
    """A list attribute; the mean of the embeddings of its values. Attributes as of `CategoricalInput`."""

    name: Name
    kind: Literal["multi_categorical"]
    max_values: Positive = 8
    embedding_dim: Positive = 16
    min_count: Positive = 1
    hash_buckets: Annotated[int, Field(ge=0)] = 0
    dropout: Share = 0.0
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class HistoryInput:
    """The items that the user met before, made one vector by an encoder of `trainer.model.history.encoders`.

    Attributes:
        name: of the feature.
        max_values: how many of the newest count.
        encoder: ``mean``; ``positions``: learned weights for each rank; ``rank_decay``: an exponential one;
            ``gru``; ``transformer``: causal, as in SASRec.
        items: what an item of the history is. ``tied``: the embedding that ``item_id`` has in the item tower; ``own``:
            one of its own; ``tower``: what the item tower makes of it, attributes and all, before its length is 1.
        layers: of the transformer.
        heads: of the transformer.
        dropout: share of the items hidden in training.
        encoder_dropout: of the item embeddings, and inside the transformer.
        values: what else is known of each event, such as its rating.
        values_dropout: share of the histories in which each of them, or the times, is hidden in training.
        description: for those who send it.
    """

    name: Name
    kind: Literal["history"]
    max_values: Annotated[int, Field(ge=1, le=10_000)] = 50
    encoder: Literal["mean", "positions", "rank_decay", "gru", "transformer"] = "positions"
    items: Literal["tied", "own", "tower"] = "tied"
    layers: Annotated[int, Field(ge=1, le=12)] = 1
    heads: Annotated[int, Field(ge=1, le=16)] = 2
    dropout: Share = 0.0
    encoder_dropout: Share = 0.0
    values: tuple[Value, ...] = ()
    values_dropout: Share = 0.2
    description: str = "ids of the items the user met before, oldest first; missing: a new user"

    @property
    def reads_ages(self) -> bool:
        """Whether it depends on when the request is made."""
        return any(isinstance(value, AgeValue) for value in self.values)

    @property
    def reads_times(self) -> bool:
        """Whether it depends on when its events were."""
        return self.reads_ages or any(isinstance(value, GapValue) for value in self.values)


@dataclass(frozen=True, config=STRICT)
class NumericInput:
    """A numeric attribute, standardised.

    Attributes:
        name: of the attribute.
        dropout: share of training rows in which the value is hidden.
        description: for those who send it.
    """

    name: Name
    kind: Literal["numeric"]
    dropout: Share = 0.0
    description: str = ""


Input = Annotated[
    CategoricalInput | MultiCategoricalInput | HistoryInput | NumericInput | TextInput, Field(discriminator="kind")
]


@dataclass(frozen=True, config=STRICT)
class Tower:
    """One tower.

    Attributes:
        features: its inputs.
        hidden_units: widths of the hidden layers.
        dropout: of the hidden layers.
    """

    features: Annotated[tuple[Input, ...], Field(min_length=1)]
    hidden_units: tuple[Positive, ...] = (128,)
    dropout: Share = 0.1


@dataclass(frozen=True, config=STRICT)
class Split:
    """How held-out data is chosen.

    Attributes:
        kind: ``leave_last_one_out``: of each user with three events or more, the last is for the test, the one before
            it for validation. ``global_temporal``: the newest events of all users. ``random``: any events.
            ``column``: as a column of the interactions says, ``train``, ``valid`` or ``test``.
        valid_share: of the events, for validation, where global or random.
        test_share: of the events, for the test, where global or random.
        column: of the interactions, where by column.
        repeats: whether an item that its user had before counts as an answer, and is ranked: where people take the same
            again, and that is what is asked for.
    """

    kind: Literal["leave_last_one_out", "global_temporal", "random", "column"] = "leave_last_one_out"
    valid_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    test_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    column: str | None = None
    repeats: bool = False


@dataclass(frozen=True, config=STRICT)
class Index:
    """How the index is built; see `retrieval.index.registry`. What the chosen kind has no use for is not looked at.

    Attributes:
        kind: of index. Both FAISS kinds need the extra ``faiss``, in the trainer and in the ANN service.
        min_recall_at_100: the cheapest setting that reaches it is published.
        trees: numbers of trees to try, of ``annoy``.
        links: numbers of links of a node to try, of ``faiss_hnsw`` (M in FAISS; twice as many in the lowest layer).
        ef_construction: candidates kept while a node is linked, of ``faiss_hnsw``.
        lists: numbers of inverted lists to try, of ``faiss_ivf``. Default: about 4 sqrt(item count).
    """

    kind: Literal["annoy", "faiss_hnsw", "faiss_ivf"] = "annoy"
    min_recall_at_100: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    trees: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 25, 50, 100)
    links: Annotated[tuple[Annotated[int, Field(ge=2, le=256)], ...], Field(min_length=1)] = (16, 32)
    ef_construction: Annotated[int, Field(ge=8, le=4096)] = 100
    lists: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = ()


@dataclass(frozen=True, config=STRICT)
class Gates:
    """What a bundle has to reach to go live, beside `Index.min_recall_at_100`; see `trainer.publishing.gates`.

    Attributes:
        metrics: those that are compared with the live bundle and with popularity.
        max_loss_to_live: relative: 0.1 lets a metric fall to 0.9 of the live bundle's on the same held-out data.
            1 switches the gate off.
        min_gain_over_popularity: relative: at 0 each metric has to be above that of the most popular items, at 0.5
            above one and a half times that. -1 switches the gate off.
        max_never_retrieved: share of the catalogue that may stand in nobody's top 100. 1 switches the gate off.
    """

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("ndcg@10", "recall@100")
    max_loss_to_live: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    min_gain_over_popularity: Annotated[float, Field(ge=-1.0)] = 0.0
    max_never_retrieved: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0


@dataclass(frozen=True, config=STRICT)
class Search:
    """Lexical search beside the towers.

    Attributes:
        attributes: of the items, that it reads. Default: those that the item tower reads as text.
        serve: bundles carry a lexical index, so that the ANN service ranks by words too.
    """

    attributes: tuple[Name, ...] = ()
    serve: bool = False


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """All of a training but the data itself.

    Attributes:
        name: of the model.
        interactions: the table of events.
        query_tower: turns what is known of a user and a request into an embedding.
        item_tower: turns an item into an embedding of the same space.
        items: the catalogue. Default: the items of the interactions, without attributes.
        users: what is known of them. Default: nothing.
        download: data that the trainer fetches.
        checkpoints: of text features, by name, that the trainer fetches.
        prepare: what makes the tables of data that has another form; ``icecat``: as of `trainer.data.icecat.catalogue`.
        origin: where a person gets data that the trainer cannot fetch, and its licence.
        split: into training, validation and test.
        training: how the towers are fitted.
        index: how the index is built.
        gates: what a bundle has to reach to go live.
        search: lexical search beside the towers.
        seed: of all that is random.
    """

    name: Name
    interactions: Interactions
    query_tower: Tower
    item_tower: Tower
    items: Entities | None = None
    users: Entities | None = None
    download: Download | None = None
    checkpoints: Mapping[Name, Download] = dataclasses.field(default_factory=dict)
    prepare: Literal["icecat"] | None = None
    origin: str = ""
    split: Split = dataclasses.field(default_factory=Split)
    training: Training = dataclasses.field(default_factory=Training)
    index: Index = dataclasses.field(default_factory=Index)
    gates: Gates = dataclasses.field(default_factory=Gates)
    search: Search = dataclasses.field(default_factory=Search)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1

    def to_json(self) -> dict[str, Any]:
        """Returns the resolved recipe as plain values; `trainer.recipe.loading.parse` reads it back."""
        return ADAPTER.dump_python(self, mode="json")


def lexical_attributes(recipe: Recipe) -> tuple[str, ...]:
    """Returns the item attributes that lexical search reads: the recipe's, or those that the item tower reads as text.

    Empty where there are none.
    """
    return recipe.search.attributes or tuple(f.name for f in recipe.item_tower.features if isinstance(f, TextInput))


def query_attributes(recipe: Recipe) -> dict[str, Attribute]:
    """Returns what features of the query tower can name, beside the id: of the user, the event and its time."""
    clock = () if recipe.interactions.time is None else CLOCK
    return {
        **{name: Attribute(name, "int") for name in clock},
        **recipe.interactions.attributes,
        **({} if recipe.users is None else recipe.users.attributes),
    }


ADAPTER = TypeAdapter(Recipe)

PARTS = (
    Recipe, Download, Interactions, Attribute, Entities, Tower, Split, Training, Index, Gates,
    CategoricalInput, MultiCategoricalInput, HistoryInput, NumericInput, TextInput, Search, *VALUES,
)  # fmt: skip
"""Every class whose fields are keys."""

KEYS = sorted({field.name for part in PARTS for field in dataclasses.fields(part)})
"""Every key that stands anywhere in a recipe."""
