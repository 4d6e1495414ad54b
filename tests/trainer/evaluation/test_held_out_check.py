"""Data in which nothing can be judged: an error before the training that says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.world import recipe, write_shop
from trainer.data import sources
from trainer.errors import DataError
from trainer.evaluation.held_out_check import check_held_out


def rewrite(folder: Path, lines: list[str]) -> None:
    (folder / "purchases.csv").write_text("buyer,product,bought_at\n" + "\n".join(lines) + "\n")


def test_sessions_that_end_before_the_border_of_a_temporal_split(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    lines = [
        f"u{user:02},p{(user + at) % 40:02},{1_700_000_000 + 100 * user + at}" for user in range(60) for at in range(5)
    ]
    rewrite(tmp_path / "shop", lines)
    split = {"kind": "global_temporal", "valid_share": 0.2, "test_share": 0.2}
    chosen = recipe(split=split)
    with pytest.raises(
        DataError, match=r"validation part: of 12 users in it, 12 have no events before it: choose another"
    ):
        check_held_out(chosen, sources.read(chosen, tmp_path / "shop"))
    chosen = recipe()
    check_held_out(chosen, sources.read(chosen, tmp_path / "shop"))


def test_users_who_buy_the_same_again(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    rewrite(
        tmp_path / "shop", [f"u{user:02},p{user % 40:02},{1_700_000_000 + at}" for user in range(60) for at in range(5)]
    )
    chosen = recipe()
    with pytest.raises(DataError, match=r"of 60 users in it, 60 have only items .* set split.repeats = true"):
        check_held_out(chosen, sources.read(chosen, tmp_path / "shop"))
    chosen = recipe(split={"repeats": True})
    check_held_out(chosen, sources.read(chosen, tmp_path / "shop"))
