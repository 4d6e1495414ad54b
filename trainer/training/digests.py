"""Digests that show whether two trainings have the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import Events


def digest_events(events: Events) -> str:
    """Returns the SHA-256 of events with their attributes, as hexadecimal digits."""
    digest = hashlib.sha256()
    for values in (events.users, events.items, events.times, events.weights):
        for block in spill.blocks(len(values)):
            digest.update(np.ascontiguousarray(values[block]))
    for name, column in sorted(events.attributes.items()):
        digest.update(name.encode())
        for block in spill.blocks(len(events)):
            digest.update(json.dumps(column[block].tolist()).encode())
    return digest.hexdigest()


def digest_users(dataset: Dataset) -> str:
    """Returns the SHA-256 of the users with their attributes, as hexadecimal digits."""
    return _digest_rows(dataset.user_ids, *(dataset.user_columns[name] for name in sorted(dataset.user_columns)))


def digest_items(dataset: Dataset) -> str:
    """Returns the SHA-256 of the catalogue with its attributes, as hexadecimal digits."""
    names = sorted(dataset.items.attributes)
    return _digest_rows(dataset.items.ids, *(dataset.item_column(name) for name in names))


def _digest_rows(*columns: Iterable[Any]) -> str:
    """Returns the SHA-256 of columns of plain values, all [n], row by row."""
    digest = hashlib.sha256()
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
