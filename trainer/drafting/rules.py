"""The rules by which `init` chooses towers and training from the shape of the data.

docs/first_recipes.md has the same rules with the measurements behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

SPARSE = 20.0
"""Events an item below which the towers have no hidden layers, and vectors are small at first."""
SHORT = 20.0
"""Events a user below which the history reads what items have in common, their attributes."""
SMALL_CATALOGUE = 5_000
"""Largest number of items for which the loss ranks the whole catalogue in each step."""
_ENSEMBLES = ((50_000, 4), (400_000, 2))
"""Number of events up to which so many pairs of towers with long vectors are trained where items have few events."""
_FEW_ITEMS = 1000
"""Number of items below which vectors are short."""
_EPOCHS_AND_BATCHES = ((20_000, 30, 256), (400_000, 20, 512), (2_000_000, 10, 2048), (math.inf, 5, 4096))
"""Number of events up to which a row applies, largest number of epochs, and batch size."""
_SPARSE_EPOCHS_AND_BATCHES = ((20_000, 30, 256), (400_000, 12, 256), (2_000_000, 8, 1024), (math.inf, 5, 4096))
"""The same where items have fewer than `SPARSE` events."""


@dataclass(frozen=True)
class DataShape:
    """What the rules depend on.

    Attributes:
        event_count: Number of events.
        user_count: Number of users with events.
        item_count: Number of items of the catalogue.
        has_attributes: Whether items have attributes that are features.
    """

    event_count: int
    user_count: int
    item_count: int
    has_attributes: bool


@dataclass(frozen=True)
class Choices:
    """Keys of a recipe.

    Attributes:
        hidden_units: Widths of the hidden layers of both towers.
        history: Keys of the history.
        training: Keys of ``[training]``.
        reasons: A sentence for some of the keys of ``[training]``, by key.
    """

    hidden_units: tuple[int, ...]
    history: dict[str, Any]
    training: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)


def choose(shape: DataShape) -> Choices:
    """Returns the keys for data of a shape."""
    per_item = shape.event_count / max(1, shape.item_count)
    per_user = shape.event_count / max(1, shape.user_count)
    history: dict[str, Any] = {"encoder": "positions", "max_values": 50, "dropout": 0.2}
    if shape.has_attributes and per_user < SHORT:
        history |= {"items": "tower"}
    training: dict[str, Any] = {"dimension": 32 if shape.item_count < _FEW_ITEMS else 64}
    if per_item < SPARSE:
        hidden_units: tuple[int, ...] = ()
        initial_norm, rows = 0.1, _SPARSE_EPOCHS_AND_BATCHES
        history |= {"encoder_dropout": 0.6}
        ensemble = next((size for most, size in _ENSEMBLES if shape.event_count <= most), 1)
        if ensemble > 1 and shape.item_count >= _FEW_ITEMS:
            training |= {"dimension": 128, "ensemble_size": ensemble}
        reason = f"{per_item:.3g} events an item, fewer than {SPARSE:g}: small vectors at first, no hidden layers."
    else:
        hidden_units = (128,)
        initial_norm, rows = 0.3, _EPOCHS_AND_BATCHES
        history |= {"encoder_dropout": 0.2}
        reason = f"{per_item:.3g} events an item, at least {SPARSE:g}: hidden layers."
    epochs, batch_size = next((epochs, size) for most, epochs, size in rows if shape.event_count <= most)
    training |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": 2e-3, "patience": 4}
    training |= {"initial_norm": initial_norm}
    reasons = {"initial_norm": reason}
    if shape.item_count <= SMALL_CATALOGUE:
        training |= {"loss": "full_softmax"}
        reasons["loss"] = f"The catalogue has {shape.item_count:,} items, at most {SMALL_CATALOGUE:,}."
    else:
        training |= {"loss": "sampled_softmax", "negatives": 4096}
        reasons["loss"] = f"The catalogue has {shape.item_count:,} items, more than {SMALL_CATALOGUE:,}."
    training |= {"refit": True}
    return Choices(hidden_units, history, training, reasons)
