"""The recipe: which tables, which features, which training. A TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from trainer.recipe.feature_inputs import INPUTS, Input, TextInput
from trainer.recipe.tables import STRICT, Attribute, Download, Entities, Interactions, Items, Name, Positive, Share
from trainer.recipe.training import Metric, Training

ID = "id"
"""Name of the id column in a table of users or items that has been read; attributes cannot have it."""
USER_ID = "user_id"
ITEM_ID = "item_id"
"""Features of these names are the ids themselves; all others are attributes."""
CLOCK = ("hour", "weekday")
"""Query tower features of these names are computed from the time of the event, and need no attribute."""


@dataclass(frozen=True, config=STRICT)
class Tower:
    """One tower.

    Attributes:
        features: Inputs of the tower.
        hidden_units: Widths of the hidden layers.
        dropout: Dropout rate of the hidden layers.
    """

    features: Annotated[tuple[Input, ...], Field(min_length=1)]
    hidden_units: tuple[Positive, ...] = (128,)
    dropout: Share = 0.1


@dataclass(frozen=True, config=STRICT)
class Split:
    """How events are split into training, validation and test.

    Attributes:
        kind: ``leave_last_one_out``: of each user with at least three events, the last one is for the test and the one
            before it for validation. ``global_temporal``: the newest events of all users. ``random``: events drawn at
            random. ``column``: a column of the interactions holds ``train``, ``valid`` or ``test``.
        valid_share: Share of the events for validation, with ``global_temporal`` and ``random``.
        test_share: Share of the events for the test, with ``global_temporal`` and ``random``.
        column: Column of the interactions that holds the part, with ``column``.
        repeats: Whether items that the user had interacted with before are ranked and count as relevant. This is meant
            for data with repeated purchases, where items are to be recommended again.
    """

    kind: Literal["leave_last_one_out", "global_temporal", "random", "column"] = "leave_last_one_out"
    valid_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    test_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    column: str | None = None
    repeats: bool = False


@dataclass(frozen=True, config=STRICT)
class Index:
    """How the index is built, see `retrieval.index.registry`. Keys of other kinds of index are ignored.

    Attributes:
        kind: Kind of index. Both FAISS kinds need the extra ``faiss``, in the trainer and in the ANN service.
        storage: How a FAISS index holds the vectors. ``float16`` and ``int8`` take a half and a quarter of the memory
            of ``float32``; what they find is scored with the exact vectors.
        min_recall_at_100: Recall that the published index has to reach; the cheapest setting that does is published.
        trees: Numbers of trees to try, for ``annoy``.
        links: Numbers of links of a node to try, for ``faiss_hnsw`` (M in FAISS; twice as many in the lowest layer).
        ef_construction: Number of candidates that are kept while a node is linked, for ``faiss_hnsw``.
        lists: Numbers of inverted lists to try, for ``faiss_ivf``. Default: about 4 sqrt(item count).
        shards: Number of shards that the catalogue is cut into, each with an index of its own. 1: one index. All other
            settings are of each shard, but the recall, which is that of the merged answer.
    """

    kind: Literal["annoy", "faiss_hnsw", "faiss_ivf"] = "annoy"
    storage: Literal["float32", "float16", "int8"] = "float32"
    min_recall_at_100: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    trees: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 25, 50, 100)
    links: Annotated[tuple[Annotated[int, Field(ge=2, le=256)], ...], Field(min_length=1)] = (16, 32)
    ef_construction: Annotated[int, Field(ge=8, le=4096)] = 100
    lists: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = ()
    shards: Annotated[int, Field(ge=1, le=1000)] = 1

    @property
    def file_kind(self) -> str:
        """Kind of the index file in `retrieval.index.registry`, such as ``faiss_ivf`` or ``faiss_ivf_int8``."""
        return self.kind if self.storage == "float32" else f"{self.kind}_{self.storage}"


BaselineKey = Literal["popularity", "recent_popularity", "item_knn", "ease", "ease_with_recency", "ials"]


@dataclass(frozen=True, config=STRICT)
class Gates:
    """Conditions that a bundle has to meet before it may go live, see `trainer.publishing.gates`.

    Attributes:
        metrics: Metrics that are compared with the live bundle and with the baselines.
        baselines: Baselines whose metrics a bundle has to reach, see `trainer.evaluation.baselines`; that of
            ``popularity`` it has to exceed. Training fits those that are named, however long that takes.
        max_loss_to_live: Largest relative loss of a metric to the live bundle on the same held-out data: 0.1 allows
            0.9 of the live bundle's metric. 1 switches the gate off.
        min_gain_over_popularity: Relative gain of each metric over the most popular items that has to be exceeded: 0
            is the same metric, 0.5 one and a half times the metric. -1 switches the gate off.
        max_never_retrieved: Largest share of the catalogue that is in no user's top 100. 1 switches the gate off.
    """

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("ndcg@10", "recall@100")
    baselines: tuple[BaselineKey, ...] = ("popularity",)
    max_loss_to_live: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    min_gain_over_popularity: Annotated[float, Field(ge=-1.0)] = 0.0
    max_never_retrieved: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0


@dataclass(frozen=True, config=STRICT)
class Search:
    """Lexical search in addition to the search with the towers.

    Attributes:
        attributes: Item attributes that are searched. Default: those that the item tower reads as text.
        serve: Whether bundles hold a lexical index, with which the ANN service ranks by words too.
    """

    attributes: tuple[Name, ...] = ()
    serve: bool = False


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that decides a training, except the data itself.

    Attributes:
        name: Name of the model.
        interactions: Table of events.
        query_tower: Tower that embeds users and requests.
        item_tower: Tower that embeds items in the same space.
        items: Table of the catalogue. Default: the items of the interactions, without attributes.
        users: Table of the users. Default: the users of the interactions, without attributes.
        download: Data that the trainer downloads.
        checkpoints: Checkpoints of text features that the trainer downloads, by name.
        prepare: Conversion of data in another form into tables; ``icecat``: see `trainer.data.icecat.catalogue`.
        origin: Source and licence of data that the trainer cannot download.
        split: Split into training, validation and test.
        training: How the towers are trained.
        index: How the index is built.
        gates: Conditions that a bundle has to meet before it may go live.
        search: Lexical search beside the towers.
        seed: Seed of everything that is random.
    """

    name: Name
    interactions: Interactions
    query_tower: Tower
    item_tower: Tower
    items: Items | None = None
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
        """Returns the resolved recipe as plain values, which `trainer.recipe.loading.parse` reads."""
        return ADAPTER.dump_python(self, mode="json")


def lexical_attributes(recipe: Recipe) -> tuple[str, ...]:
    """Returns the item attributes that lexical search reads; empty if there are none.

    They are those of ``[search]``, or by default those that the item tower reads as text.
    """
    return recipe.search.attributes or tuple(f.name for f in recipe.item_tower.features if isinstance(f, TextInput))


def query_attributes(recipe: Recipe) -> dict[str, Attribute]:
    """Returns the attributes that features of the query tower can name: of the user, the event and its time."""
    clock = () if recipe.interactions.time is None else CLOCK
    return {
        **{name: Attribute(name, "int") for name in clock},
        **recipe.interactions.attributes,
        **({} if recipe.users is None else recipe.users.attributes),
    }


ADAPTER = TypeAdapter(Recipe)

PARTS = (
    Recipe,
    Download,
    Interactions,
    Attribute,
    Entities,
    Items,
    Tower,
    Split,
    Training,
    Index,
    Gates,
    Search,
    *INPUTS,
)
"""Every class whose fields are keys of a recipe."""

KEYS = sorted({field.name for part in PARTS for field in dataclasses.fields(part)})
"""Every key of a recipe or of one of its parts."""
