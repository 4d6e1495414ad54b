"""Hiding items from a data set: they are left out of the catalogue and of the training events."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.new_items import without
from tests.trainer.world import dataset


def test_hidden_items_are_in_neither_catalogue_nor_events() -> None:
    bought = [("u0", "a", 0.0), ("u0", "b", 1.0), ("u0", "c", 2.0), ("u1", "c", 0.0)]
    data = dataset(bought, items={"a": {"year": 1990}, "b": {"genres": ["drama"]}, "c": {"year": 2000}})
    before, train = without(data, data.events, np.array([False, True, False]))
    assert list(before.items.ids) == ["a", "c"]
    assert before.item_column("year") == [1990, 2000]
    assert [before.items.ids[item] for item in train.items.tolist()] == ["a", "c", "c"]
    assert train.users.tolist() == [0, 0, 1]
    assert train.times.tolist() == [0.0, 2.0, 0.0]
