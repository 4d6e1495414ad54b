"""What a history may know of its events beside their items."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.recipe.tables import STRICT, Name


@dataclass(frozen=True, config=STRICT)
class CategoricalValue:
    """A type of each event, such as view, cart or purchase.

    Attributes:
        name: of one of ``[interactions.attributes]``.
        embedding_dim: length of the embeddings of its values.
        min_count: values seen fewer times in training share the out-of-vocabulary slot.
        hash_buckets: above 0: hashed to so many slots instead of a vocabulary.
        description: for those who send it.
    """

    name: Name
    kind: Literal["categorical"]
    embedding_dim: Annotated[int, Field(ge=1)] = 8
    min_count: Annotated[int, Field(ge=1)] = 1
    hash_buckets: Annotated[int, Field(ge=0)] = 0
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class NumericValue:
    """A number of each event, such as a rating, a weight or a dwell time; standardised.

    Attributes:
        name: of one of ``[interactions.attributes]``.
        log: whether the logarithm of 1 + value is taken first: for times and amounts.
        description: for those who send it.
    """

    name: Name
    kind: Literal["numeric"]
    log: bool = False
    description: str = ""


@dataclass(frozen=True, config=STRICT)
class AgeValue:
    """The time from each event to the request. Training takes each target's history apart, which costs time."""

    kind: Literal["age"]


@dataclass(frozen=True, config=STRICT)
class GapValue:
    """The time from the event before to each event."""

    kind: Literal["gap"]


Value = Annotated[CategoricalValue | NumericValue | AgeValue | GapValue, Field(discriminator="kind")]
VALUES = (CategoricalValue, NumericValue, AgeValue, GapValue)
"""Every class whose fields are keys of a value."""
