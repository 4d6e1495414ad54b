"""Error message for a shipped recipe whose data is missing."""

from __future__ import annotations

import pytest

from tests.trainer import world
from trainer.errors import DataError


def test_a_shipped_recipe_without_data_says_where_it_comes_from() -> None:
    with pytest.raises(DataError) as caught:
        world.command("train", "amazon_beauty")
    for part in ("Beauty.txt and Beauty_item2attributes.json", "--data", "RUCAIBox/CIKM2020-S3Rec", "not stated"):
        assert part in str(caught.value)
