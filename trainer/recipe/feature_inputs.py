"""Parts of a recipe that describe inputs of the towers: features of users, items and requests, and histories."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.recipe.tables import STRICT, Name, Positive, Share


@dataclass(frozen=True, config=STRICT)
class CategoricalEventInput:
    """A category of each event of a history, such as view, cart or purchase.

    Attributes:
        name: Name of one of ``[interactions.attributes]``.
        kind: ``categorical``.
        embedding_dim: Length of the embedding of a category.
        min_count: Smallest number of training events for which a category gets its own embedding; rarer categories
            share one embedding.
        hash_buckets: Number of hash buckets; 0 means a vocabulary instead of hashing.
        description: Text for callers, shown by ``GetServingStatus``.
    """

    name: Name
    kind: Literal["categorical"]
    embedding_dim: Positive = 8
    min_count: Positive = 1
    hash_buckets: Annotated[int, Field(ge=0)] = 0
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class NumericEventInput:
    """A number of each event of a history, such as a rating, a weight or a dwell time, standardised.

    Attributes:
        name: Name of one of ``[interactions.attributes]``.
        kind: ``numeric``.
        log: Whether log(1 + value) is standardised instead of the value; suits times and amounts.
        description: Text for callers, shown by ``GetServingStatus``.
    """

    name: Name
    kind: Literal["numeric"]
    log: bool = False
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class AgeInput:
    """The time from each event of a history to the request.

    Training encodes the history of each target by itself, as the ages differ from target to target; this is slower.
    """

    kind: Literal["age"]


@dataclass(frozen=True, config=STRICT)
class GapInput:
    """The time from the previous event to each event of a history."""

    kind: Literal["gap"]


EventInput = Annotated[CategoricalEventInput | NumericEventInput | AgeInput | GapInput, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class CategoricalInput:
    """An attribute, or an id, with one embedding for each value.

    Attributes:
        name: Name of an attribute, or ``user_id`` or ``item_id``.
        kind: ``categorical``.
        embedding_dim: Length of the embedding of a value; ``item_id`` uses `Training.dimension` instead.
        min_count: Smallest number of training events for which a value gets its own embedding; rarer values share one
            embedding.
        hash_buckets: Number of hash buckets; 0 means a vocabulary instead of hashing.
        dropout: Feature dropout: share of the training rows in which the value counts as missing.
        description: Text for callers, shown by ``GetServingStatus``.
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
    """A list attribute, as the mean of the embeddings of its values.

    Attributes:
        name: Name of an attribute.
        kind: ``multi_categorical``.
        max_values: Number of values of a list that are read, from the first on.
        embedding_dim: Length of the embedding of a value.
        min_count: Smallest number of training events for which a value gets its own embedding; rarer values share one
            embedding.
        hash_buckets: Number of hash buckets; 0 means a vocabulary instead of hashing.
        dropout: Feature dropout: share of the training rows in which the list counts as missing.
        description: Text for callers, shown by ``GetServingStatus``.
    """

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
    """The items that the user interacted with before, encoded by an encoder of `trainer.model.history`.

    Attributes:
        name: Name of the feature.
        kind: ``history``.
        max_values: Number of items that are read, the newest ones.
        encoder: ``mean``: the plain mean. ``positions``: a mean with a learned weight for each position from the newest
            item on. ``rank_decay``: a mean with weights that decay exponentially by position. ``gru``: a GRU.
            ``transformer``: a causal transformer, as in SASRec.
        items: Source of the item embeddings. ``tied``: the embedding of ``item_id`` in the item tower. ``own``: an
            embedding table of the history. ``tower``: the output of the item tower before normalisation, which
            includes the item's attributes.
        layers: Number of transformer layers.
        heads: Number of attention heads of the transformer.
        dropout: Share of the items that are left out of a history in training.
        encoder_dropout: Dropout rate of the item embeddings and inside the transformer.
        event_features: Features of each event that are read in addition to its item, such as its rating.
        event_feature_dropout: Share of the training histories in which an event feature counts as missing, drawn for
            each event feature, and for ages and gaps together.
        description: Text for callers, shown by ``GetServingStatus``.
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
    event_features: tuple[EventInput, ...] = ()
    event_feature_dropout: Share = 0.2
    description: str = "ids of the items that the user interacted with, oldest first; missing: a new user"

    @property
    def reads_ages(self) -> bool:
        """Whether the encoded history depends on the time of the request."""
        return any(isinstance(feature, AgeInput) for feature in self.event_features)

    @property
    def reads_times(self) -> bool:
        """Whether the encoded history depends on the times of its events."""
        return self.reads_ages or any(isinstance(feature, GapInput) for feature in self.event_features)


@dataclass(frozen=True, config=STRICT)
class NumericInput:
    """A numeric attribute, standardised.

    Attributes:
        name: Name of an attribute.
        kind: ``numeric``.
        dropout: Feature dropout: share of the training rows in which the number counts as missing.
        description: Text for callers, shown by ``GetServingStatus``.
    """

    name: Name
    kind: Literal["numeric"]
    dropout: Share = 0.0
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class TextInput:
    """A text attribute, embedded by a Hugging Face checkpoint. Features with the same settings share one encoder.

    Attributes:
        name: Name of an attribute.
        kind: ``text``.
        checkpoint: Name under ``[checkpoints]``, folder, or name on the Hugging Face hub. BERT, DistilBERT and RoBERTa,
            and models of the same architecture, such as MiniLM.
        mode: ``frozen``: the checkpoint is not trained; each distinct text is embedded once and the vector is kept on
            disk. ``finetune``: the checkpoint is trained with the towers. ``distilled``: a table with one vector for
            each token, learned from the checkpoint; embeds a text in well under a millisecond.
        max_tokens: Number of tokens of a text that are read, special tokens included.
        width: Length of the vectors of mode ``distilled``; the other modes use the checkpoint's own.
        learning_rate: Initial learning rate of the encoder. Default: 2e-5 for ``finetune``; with ``distilled`` the
            table is not trained with the towers.
        token_weights: How the token vectors of ``distilled`` are weighted at the start. ``learned``: from the
            checkpoint. ``idf``: by inverse document frequency, which takes no training.
        trained_layers: Number of layers that ``finetune`` trains, the topmost ones; with all layers, the token
            embeddings are trained too.
        precision: Precision of the deployed encoder; ``int8`` is smaller and faster, and `evaluation.json` has what it
            costs in quality.
        dropout: Feature dropout: share of the training rows in which the text counts as missing.
        description: Text for callers, shown by ``GetServingStatus``.
    """

    name: Name
    kind: Literal["text"]
    checkpoint: str
    mode: Literal["frozen", "finetune", "distilled"] = "frozen"
    max_tokens: Annotated[int, Field(ge=3, le=512)] = 64
    width: Annotated[int, Field(ge=2, le=1024)] = 256
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    token_weights: Literal["learned", "idf"] = "learned"
    trained_layers: Positive = 2
    precision: Literal["float32", "int8"] = "float32"
    dropout: Share = 0.0
    description: str = ""

    @property
    def encoder_learning_rate(self) -> float | None:
        """Learning rate of the encoder; None if it is not trained with the towers."""
        if self.mode == "frozen":
            return None
        return self.learning_rate or (2e-5 if self.mode == "finetune" else None)


Input = Annotated[
    CategoricalInput | MultiCategoricalInput | HistoryInput | NumericInput | TextInput, Field(discriminator="kind")
]

INPUTS = (
    CategoricalInput, MultiCategoricalInput, HistoryInput, NumericInput, TextInput,
    CategoricalEventInput, NumericEventInput, AgeInput, GapInput,
)  # fmt: skip
"""Every class whose fields are keys of a feature or of an event feature."""
