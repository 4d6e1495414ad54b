"""The model beside baselines, by slices and by what is sent, and what would flatter it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, Shop, command, dataset
from trainer import splits
from trainer.data import Dataset, Events
from trainer.errors import DataError, RunError
from trainer.evaluation import popularity_scorer
from trainer.metrics import HeldOut, evaluate
from trainer.recipe import Split
from trainer.splits import Parts

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture(scope="module")
def report(shop: Shop) -> dict[str, Any]:
    arguments = ("--baselines", "--slice", "gender", "--slice", "age", "--store", shop.store.root, "--json")
    return json.loads(command("evaluate", shop.runs[0], *arguments))


def test_every_method_is_measured_on_the_same_users_with_its_interval(report: dict[str, Any]) -> None:
    methods = list(report["metrics"])
    assert methods[0] == "two-tower"
    assert set(methods) >= {"two-tower, served", "popularity", "recent popularity", "ItemKNN", "EASE", "iALS"}
    assert report["user_count"] == 60
    for method in methods:
        for name, (low, high) in report["intervals"][method].items():
            assert low <= report["metrics"][method][name] + 1e-9
            assert high >= report["metrics"][method][name] - 1e-9
    for method in methods[1:]:
        for name, (difference, low, high) in report["differences"][method].items():
            expected = report["metrics"]["two-tower"][name] - report["metrics"][method][name]
            assert difference == pytest.approx(expected, abs=1e-9)
            assert low <= difference + 1e-9
            assert high >= difference - 1e-9


def test_served_ranks_as_the_trained_towers_do(report: dict[str, Any]) -> None:
    # 40 items: the index finds all of them, so only the rounding of the export could differ.
    served, trained = report["metrics"]["two-tower, served"], report["metrics"]["two-tower"]
    assert {n: served[n] for n in ("ndcg@10", "mrr", "recall@10")} == pytest.approx(
        {n: trained[n] for n in ("ndcg@10", "mrr", "recall@10")}, abs=0.01
    )


def test_slices_hold_all_users_once(report: dict[str, Any]) -> None:
    slices = report["slices"]
    for name in ("known events", "popularity of the held-out item", "gender", "age"):
        assert sum(group["users"] for group in slices[name].values()) == 60, name
        weighted = sum(group["users"] * group["ndcg@10"] for group in slices[name].values()) / 60
        assert weighted == pytest.approx(report["metrics"]["two-tower"]["ndcg@10"])
    assert set(slices["gender"]) == {"f", "m"}
    assert slices["age"]["missing"]["users"] == 9  # users 0, 7, … 56


def test_a_caller_may_send_a_part_or_nothing(report: dict[str, Any]) -> None:
    inputs = report["inputs"]
    assert list(inputs) == ["all features", "history only", "all but the history", "nothing"]
    assert inputs["all features"] == report["metrics"]["two-tower"]
    # The history tells the genre, age and gender do not.
    assert inputs["history only"]["ndcg@10"] > inputs["nothing"]["ndcg@10"] + 0.1


def test_repeats_are_ranked_and_count_where_asked_for(shop: Shop) -> None:
    found = json.loads(command("evaluate", shop.runs[0], "--repeats", "--json"))
    assert found["repeats"] is True
    novel = json.loads(command("evaluate", shop.runs[0], "--json"))
    # Nobody buys twice here: with all 40 items in the ranking the held-out one stands further behind.
    assert found["repeat_share"] == 0
    assert found["metrics"]["popularity"]["mrr"] < novel["metrics"]["popularity"]["mrr"]


def test_an_unknown_column_to_slice_by_is_an_error(shop: Shop) -> None:
    with pytest.raises(
        DataError, match=r"no attribute 'height' of the users to slice by; there are \['age', 'gender'\]"
    ):
        command("evaluate", shop.runs[0], "--slice", "height")


def test_a_bundle_of_another_run_is_not_taken_for_this_one(shop: Shop) -> None:
    with pytest.raises(RunError, match="evaluate the run that the bundle was published from"):
        command("evaluate", shop.runs[0], "--store", shop.store.root, "--bundle", shop.versions[1])
    with pytest.raises(RunError, match="holds no bundle 20200101T000000Z-000000"):
        command("evaluate", shop.runs[0], "--store", shop.store.root, "--bundle", "20200101T000000Z-000000")


# Traps: each would flatter a model, and is either refused or has no effect.


def crowd() -> tuple[Dataset, Parts]:
    """120 users with 12 events each, of 80 items of which the low ones are popular."""
    generator = np.random.default_rng(4)
    chance = 1.0 / np.arange(1, 81)
    bought = [
        (f"u{user:03}", f"i{item:02}", float(at))
        for user in range(120)
        for at, item in enumerate(generator.choice(80, 12, replace=False, p=chance / chance.sum()))
    ]
    made = dataset(bought)
    return made, splits.split(made, Split())


def held_out(parts: Parts, known: Events) -> HeldOut:
    return HeldOut.of(known.pairs, parts.test.pairs, 80)


def test_test_pairs_are_not_known_and_duplicates_count_once() -> None:
    _, parts = crowd()
    twice = parts.test.followed_by(parts.test)
    once = held_out(parts, parts.known)
    again = HeldOut.of(parts.known.pairs, twice.pairs, 80)
    for known, relevant, repeated in zip(once.known, once.relevant, again.relevant, strict=True):
        assert not set(known) & set(relevant)
        assert repeated.tolist() == relevant.tolist()


def test_a_constant_scorer_is_at_chance_and_an_oracle_at_one() -> None:
    _, parts = crowd()
    task = held_out(parts, parts.known)
    constant = evaluate(task, lambda users: np.zeros((len(users), 80))).means
    # 11 of 80 items are known: the first ten of the 69 others hold the one relevant item with 0.145.
    assert constant["recall@10"] == pytest.approx(10 / 69, abs=0.07)  # 120 users: standard error 0.032

    def oracle(users: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(users), 80))
        for row, user in enumerate(users):
            scores[row, task.relevant[int(np.flatnonzero(task.users == user)[0])]] = 1.0
        return scores

    best = evaluate(task, oracle).means
    assert (best["ndcg@10"], best["mrr"], best["recall@10"], best["hr@10"], best["map@10"]) == (1, 1, 1, 1, 1)


def test_known_items_left_in_the_ranking_would_lower_and_the_order_of_items_cannot_raise_a_figure() -> None:
    _, parts = crowd()
    popular = popularity_scorer(parts.known, 80)
    honest = evaluate(held_out(parts, parts.known), popular).means["ndcg@10"]
    with_valid_left_in = evaluate(HeldOut.of(parts.train.pairs, parts.test.pairs, 80), popular).means["ndcg@10"]
    assert with_valid_left_in < honest
    # Low items are popular: ties by their order would give a constant scorer popularity's figure.
    ranked_by_row = evaluate(held_out(parts, parts.known), lambda users: np.tile(-np.arange(80.0), (len(users), 1)))
    constant = evaluate(held_out(parts, parts.known), lambda users: np.zeros((len(users), 80)))
    assert constant.means["ndcg@10"] < 0.7 * ranked_by_row.means["ndcg@10"]


def test_a_later_event_changes_no_popularity_and_no_history() -> None:
    made, parts = crowd()
    before = popularity_scorer(parts.known, 80)(np.array([0]))
    moved = Parts(parts.train, parts.valid, parts.test.followed_by(parts.test))
    np.testing.assert_array_equal(popularity_scorer(moved.known, 80)(np.array([0])), before)
    assert len(moved.known) == len(made.events) - len(parts.test)


def test_a_score_that_is_no_number_is_refused() -> None:
    _, parts = crowd()
    with pytest.raises(ValueError, match="NaN"):
        evaluate(held_out(parts, parts.known), lambda users: np.full((len(users), 80), np.nan))


def test_run_folder_keeps_the_evaluation(shop: Shop, report: dict[str, Any]) -> None:
    assert report["metrics"]["two-tower"]["ndcg@10"] > 0
    kept = json.loads((Path(shop.runs[0]) / "evaluation.json").read_text())
    assert kept["metrics"]["two-tower"]["ndcg@10"] == pytest.approx(report["metrics"]["two-tower"]["ndcg@10"])
