"""Notes below the tables that the trainer prints."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.cli import console
from trainer.evaluation.baselines import _shown
from trainer.evaluation.comparison import Comparison
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.metrics import NDCG_AT, RECALL_AT

FIGURES = {
    **{f"recall@{k}": 0.5 for k in RECALL_AT},
    **{f"ndcg@{k}": 0.5 for k in NDCG_AT},
    **dict.fromkeys(("mrr", "hr@10", "coverage@10"), 0.5),
}


def printed(capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    given = {"user_count": 900, "cold_user_count": 4, "repeat_user_count": 39, "test_user_count": 943, **changes}
    evaluation = Evaluation({"two-tower": FIGURES}, cold_item_share=0.0, repeat_share=0.5, **given)  # type: ignore[arg-type]
    console.print_evaluation(evaluation, "shop")
    return capsys.readouterr().err


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        console.fail("no file a:x:b.csv [bold]")
    assert capsys.readouterr().err == "error: no file a:x:b.csv [bold]\n"


def test_counts_users_that_only_repeat_apart_from_users_without_a_known_item(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys)
    assert (
        "900 of the 943 users of the test are counted; left out are 4 that had no interaction before the test and 39 "
        "that interacted with known items only. 50.0%"
    ) in text
    assert "known items only" not in printed(capsys, repeats=True, user_count=939, repeat_user_count=0)
    none = printed(capsys, user_count=943, cold_user_count=0, repeat_user_count=0)
    assert "943 of the 943 users of the test are counted. 50.0%" in none


def test_a_sample_of_the_users_is_named_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "of the 943 users of the test (drawn from 70,000) are" in printed(capsys, test_user_count=70_000)


def test_popularity_of_recommendations_has_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_comparison(dataclasses.asdict(Comparison(5, 0.5, 2.0, not_comparable="none")))
    told = capsys.readouterr().err
    assert "2.000 (the natural logarithm of 1 + the events of an item before the test; lower:" in told
    assert "note" not in told


def test_items_that_only_the_live_bundle_has_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = Comparison(5, 0.5, 2.0, not_comparable="none", live_item_count=560, lost_item_count=60, lost_item="new [1]")
    console.print_comparison(dataclasses.asdict(found))
    assert "60 of the 560 items of the live bundle are not in the new one, such as 'new [1]'" in capsys.readouterr().err


def test_settings_of_baselines_have_their_unit() -> None:
    shown = list(_shown({"half_life": 0.01, "neighbours": 100, "shrinkage": 10.0}))
    assert shown == ["half_life 0.01 of the greatest age of an event", "neighbours 100 items", "shrinkage 10"]
