"""`make quality`: checks of means over seeds against targets, and of differences from baselines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import first_recipe, graded_search
from benchmarks.quality.first_recipe import Row, changed
from benchmarks.quality.recipes import MODEL, REPEAT_FREQUENCY, TRAIN_ONLY, Beats, Floor, judge, targets_of
from testbed.table_shapes import SHAPES, Shape, Tables
from tests.trainer.world import KERAS_AND_NUMPY
from trainer.drafting.draft import draft
from trainer.drafting.recipe_writer import write_recipe
from trainer.evaluation.evaluate import Evaluation
from trainer.recipe.feature_inputs import HistoryInput
from trainer.tuning.quality import rows_of, to_markdown


def evaluation(model: float, ease: float, low: float) -> Evaluation:
    names = ("hr@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "coverage@10")
    metrics = {MODEL: dict.fromkeys(names, model), "EASE": dict.fromkeys(names, ease)}
    differences = {"EASE": dict.fromkeys(names, (model - ease, low, 2 * (model - ease) - low))}
    return Evaluation(metrics, 10, 0, 0.0, 0.0, differences=differences)


FOUND = [evaluation(0.10, 0.07, 0.02), evaluation(0.14, 0.07, -0.01)]


@pytest.mark.parametrize(
    ("target", "passed"),
    [
        (Floor(MODEL, "ndcg@10", 0.12), True),  # the mean of 0.10 and 0.14
        (Floor(MODEL, "ndcg@10", 0.1201), False),
        (Beats("EASE", "ndcg@10"), True),
        (Beats("EASE", "ndcg@10", surely=True), False),  # the second seed's interval begins below 0
    ],
)
def test_targets_are_judged_by_the_mean_and_by_the_worst_seed(target: Any, passed: bool) -> None:
    assert judge(target, rows_of(FOUND, []), FOUND)[0] is passed


def test_spread_is_that_of_the_seeds() -> None:
    mean, spread = rows_of(FOUND, [])[MODEL]["mrr"]
    # Of 0.10 and 0.14: sqrt(2 * 0.02^2 / 1) = 0.0283.
    assert (mean, spread) == (pytest.approx(0.12), pytest.approx(0.02828, abs=1e-4))


def test_a_table_has_a_row_for_each_method_with_the_spread_of_the_seeds() -> None:
    lines = to_markdown(rows_of(FOUND, [])).splitlines()
    assert lines[0].startswith("| method | hr@10 | recall@50 |")
    assert lines[2].startswith("| two-tower | 0.1200 ± 0.0283 |")
    assert lines[3].startswith("| EASE | 0.0700 | 0.0700 |")


def test_what_was_fitted_on_train_alone_is_a_row_of_its_own() -> None:
    rows = rows_of(FOUND, [evaluation(0.05, 0.07, 0.0)])
    assert rows[TRAIN_ONLY]["ndcg@10"][0] == 0.05
    assert TRAIN_ONLY not in rows_of(FOUND, [])


def test_a_recipe_without_targets_has_to_beat_its_baselines_and_none_is_judged_that_was_not_run() -> None:
    rows = rows_of(FOUND, [])
    assert targets_of("mine", rows) == [Beats("EASE", "recall@100"), Beats("EASE", "ndcg@10")]
    without = {MODEL: rows[MODEL]}
    assert all(isinstance(target, Floor) for target in targets_of("movielens_100k", without))
    assert any(isinstance(target, Beats) for target in targets_of("movielens_100k", rows))
    assert {target.method for target in targets_of("amazon_beauty", rows) if isinstance(target, Floor)} == {MODEL}
    assert dataclasses.astuple(targets_of("movielens_100k", rows)[0]) == (MODEL, "ndcg@10", 0.115)


def test_with_repeats_every_baseline_but_the_repeat_frequency_has_to_be_beaten() -> None:
    rows = {**rows_of(FOUND, []), REPEAT_FREQUENCY: {}}
    beats = [Beats("EASE", "recall@100"), Beats("EASE", "ndcg@10")]
    assert targets_of("movielens_100k", rows, repeats=True) == beats


def test_a_search_has_to_win_in_every_seed() -> None:
    passed, text = graded_search.judge([(0.05, 0.01, 0.09), (0.06, 0.02, 0.1)], "BM25")
    assert passed
    assert text == "ndcg@10 +0.0550 beside BM25: the paired 95 % interval begins at +0.0100"
    assert not graded_search.judge([(0.05, 0.01, 0.09), (0.02, -0.01, 0.05)], "BM25")[0]


def test_a_drafted_recipe_can_be_changed_key_by_key(tmp_path: Path) -> None:
    tables = SHAPES["walk"].write(tmp_path, tmp_path)
    text = write_recipe(draft(tables.interactions, tables.items, tables.users, "walk"), tmp_path)
    recipe = changed(text, ["training.epochs=3", "history.dropout=0.1", 'split.kind="random"'])
    history = recipe.query_tower.features[0]
    assert isinstance(history, HistoryInput)
    assert (recipe.training.epochs, history.dropout, recipe.split.kind) == (3, 0.1, "random")
    with pytest.raises(SystemExit, match=r"--set nothing\.x=1: expected a part and a key"):
        changed(text, ["nothing.x=1"])


@pytest.mark.parametrize(
    ("towers", "best", "shipped", "passed"),
    [(0.10, 0.10, None, True), (0.0999, 0.10, None, False), (0.095, 0.09, 0.10, True), (0.0949, 0.09, 0.10, False)],
)
def test_a_first_recipe_has_to_reach_the_best_baseline_and_nearly_the_shipped_recipe(
    towers: float, best: float, shipped: float | None, passed: bool
) -> None:
    assert Row("shop", "test", [towers], "EASE", best, shipped, 1.0, 1.0).passed is passed


def test_a_first_recipe_is_judged_by_the_mean_of_its_seeds() -> None:
    # 0.10 and 0.14: the mean is 0.12, the deviation sqrt(2 * 0.02^2 / 1) = 0.0283.
    row = Row("shop", "test", [0.10, 0.14], "EASE", 0.11, None, 1.0, 1.0)
    assert str(row) == "| shop | test | 0.1200 ± 0.0283 | 0.1100 EASE |  | 1 | 1 | ok |"
    assert not Row("shop", "test", [0.10, 0.14], "EASE", 0.13, None, 1.0, 1.0).passed


def few_walks(folder: Path, _: Path) -> Tables:
    """Writes 60 walks of 8 steps over 40 pages, each of which leads to the next page or the one after it."""
    generator = np.random.default_rng(1)
    rows = ["session,page,time"]
    for session in range(60):
        pages = np.cumsum(generator.integers(1, 3, 8)) + generator.integers(0, 40)
        rows += [f"s{session},p{page % 40},{1_700_000_000 + 60 * step}" for step, page in enumerate(pages)]
    path = folder / "interactions.csv"
    path.write_text("\n".join(rows) + "\n")
    return Tables(path)


@pytest.mark.filterwarnings(KERAS_AND_NUMPY)
def test_a_first_recipe_is_trained_once_for_each_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SHAPES, "few_walks", Shape("60 walks", few_walks))
    out = tmp_path / "figures.json"
    arguments = ["few_walks", "--seeds", "2", "--no-baselines", "--set", "training.epochs=1", "--json", str(out)]
    monkeypatch.setattr("sys.argv", ["first_recipe", *arguments])
    assert first_recipe.main() == 0
    (row,) = json.loads(out.read_text())
    assert row["part"] == "valid"
    assert len(set(row["towers"])) == 2  # seeds that differ give towers that differ
