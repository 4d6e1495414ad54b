"""The measurement of several interests, on the shop."""

from __future__ import annotations

from pathlib import Path

import pytest

from rehearsal.interests import measure, with_interests
from tests.trainer.world import KERAS_AND_NUMPY, recipe, write_shop
from trainer import data, splits

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def test_shows_metrics_and_how_far_interests_are_apart(tmp_path: Path) -> None:
    own = recipe()
    dataset = data.load(own, write_shop(tmp_path / "data").parent)
    parts = splits.split(dataset, own.split)
    *metrics, cosine = measure(with_interests(own, 2), dataset, parts)
    assert with_interests(own, 2).query_tower.interests == 2
    assert all(0.0 < value <= 1.0 for value in metrics)
    assert -1.0 <= cosine < 0.99  # two interests, and not twice the same
    assert measure(own, dataset, parts)[-1] == 1.0
