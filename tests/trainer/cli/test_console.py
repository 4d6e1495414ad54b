"""Notes below the tables that the trainer prints."""

from __future__ import annotations

import pytest

from trainer.cli import console
from trainer.evaluation.baselines import _shown
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
    assert "900 of the 943 users of the test: 4 more have no known item, 39 interacted with known items only" in text
    assert "known items only" not in printed(capsys, repeats=True, user_count=939, repeat_user_count=0)


def test_a_sample_of_the_users_is_named_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "of the 943 users of the test, drawn from 70,000:" in printed(capsys, test_user_count=70_000)


def test_popularity_of_recommendations_has_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_comparison(
        {"query_count": 5, "never_retrieved": 0.5, "mean_log_popularity": 2.0, "not_comparable": "none", "live": ""}
    )
    assert (
        "2.000 (the natural logarithm of 1 + the events of an item before the test; lower:" in capsys.readouterr().err
    )


def test_settings_of_baselines_have_their_unit() -> None:
    shown = list(_shown({"half_life": 0.01, "neighbours": 100, "shrinkage": 10.0}))
    assert shown == ["half_life 0.01 of the greatest age of an event", "neighbours 100 items", "shrinkage 10"]
