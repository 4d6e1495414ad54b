"""Evaluation of a model: beside baselines, by slice, with part of the query features, and as served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer.data import spill
from trainer.errors import DataError, RunError
from trainer.evaluation import evaluate

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


def test_of_many_users_the_same_sample_is_evaluated_each_time(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(shop.runs[0], tmp_path / "run")
    monkeypatch.setattr(evaluate, "TEST_USERS", 25)
    found = [json.loads(command("evaluate", run, "--json")) for _ in range(2)]
    assert found[0] == found[1]
    assert (found[0]["user_count"], found[0]["test_user_count"], found[0]["repeat_user_count"]) == (25, 60, 0)


def test_a_run_and_a_bundle_from_disk_are_those_from_memory(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 64)
    monkeypatch.setattr(spill, "BLOCK", 50)
    train = ("train", shop.recipe, "--run", tmp_path / "run", "--store", tmp_path / "store", "--json")
    found = json.loads(command(*train))
    assert found["metrics"] == shop.results[0]["metrics"]
    vectors = [
        store.path(version) / "vectors.npy"
        for store, version in (
            (FolderStore(tmp_path / "store"), found["bundle_version"]),
            (shop.store, shop.versions[0]),
        )
    ]
    assert vectors[0].read_bytes() == vectors[1].read_bytes()


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


def test_run_folder_keeps_the_evaluation(shop: Shop, report: dict[str, Any]) -> None:
    assert report["metrics"]["two-tower"]["ndcg@10"] > 0
    kept = json.loads((Path(shop.runs[0]) / "evaluation.json").read_text())
    assert kept["metrics"]["two-tower"]["ndcg@10"] == pytest.approx(report["metrics"]["two-tower"]["ndcg@10"])
