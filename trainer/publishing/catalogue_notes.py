"""Notes on items that are added to a catalogue, for the person who adds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary
from trainer.recipe.recipe import ITEM_ID


def note_lost_zeros(added: Collection[str], known: Collection[str]) -> list[str]:
    """Returns a note on added ids that differ from a known id in zeros at the beginning alone; empty if none does."""
    by_digits = {item_id.lstrip("0"): item_id for item_id in known}
    near = {new: old for new in added if (old := by_digits.get(new.lstrip("0"))) is not None}
    if not near:
        return []
    new, old = min(near.items())
    return [
        f"{len(near):,} of {len(added):,} added ids differ from an item's id in zeros at the beginning alone, such as "
        f"{new!r} and {old!r}: if a program has removed zeros, these are not new items."
    ]


def note_placed_by_attributes(schema: FeatureSchema, recipe: Mapping[str, Any], added: Collection[str]) -> list[str]:
    """Returns a note on added items that the item tower does not know by their ids; empty if there are none.

    Args:
        schema: Schema of the item tower.
        recipe: Resolved recipe of the bundle's manifest.
        added: Ids of the added items.
    """
    slots = next((schema.slots(feature) for feature in schema.features if feature.name == ITEM_ID), None)
    if not isinstance(slots, Vocabulary) or not (
        unknown := [each for each in added if each not in slots.slot_by_value]
    ):
        return []
    features = recipe.get("item_tower", {}).get("features", [])
    dropout = next((feature.get("dropout", 0.0) for feature in features if feature.get("name") == ITEM_ID), 0.0)
    return [
        f"{len(unknown):,} of {len(added):,} added items, such as {min(unknown)!r}, are placed by their attributes "
        f"alone until the next training. The item tower was trained with {dropout:g} dropout of item_id: the lower it "
        "is, the more rarely such items are among the first. A recipe with 0.3 places them better."
    ]


def note_unknown_in_histories(schema: FeatureSchema, added: Collection[str]) -> list[str]:
    """Returns a note on added items that the query tower cannot read in a history; empty if it can, or reads none.

    Args:
        schema: Schema of the query tower.
        added: Ids of the added items.
    """
    for feature in schema.features:
        slots = schema.slots(feature) if isinstance(feature, History) else None
        if isinstance(slots, Vocabulary) and (unknown := [each for each in added if each not in slots.slot_by_value]):
            return [
                f"{len(unknown):,} of {len(added):,} added items, such as {min(unknown)!r}, count as "
                f"unknown in a user's {feature.name!r} until the next training."
            ]
    return []


def note_unknown_values(schema: FeatureSchema, rows: Collection[Mapping[str, Any]]) -> list[str]:
    """Returns a note for each feature of the item tower that has values which the model was not trained on.

    Args:
        schema: Schema of the item tower.
        rows: Attributes of the added and changed items, by name.
    """
    notes: list[str] = []
    for feature in schema.features:
        slots = schema.slots(feature) if feature.vocabulary and feature.name != ITEM_ID else None
        if not isinstance(slots, Vocabulary):
            continue
        cells = [row.get(feature.name) for row in rows]
        values = {value for cell in cells for value in (cell if isinstance(cell, tuple | list) else [cell])}
        if unknown := sorted(str(value) for value in values if value not in slots.slot_by_value):
            notes.append(
                f"{len(unknown):,} of {len(values):,} values of {feature.name!r} are new to the model, such as "
                f"{unknown[0]!r}: the items are placed by their other attributes until a training has seen these "
                "values."
            )
    return notes
