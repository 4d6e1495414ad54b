"""Resuming the study of an earlier trainer: renamed recipe keys are accepted, other values are refused."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from tests.trainer.world import recipe
from trainer.errors import RecipeError
from trainer.recipe import retired_keys
from trainer.tuning.search_space import SearchSpace
from trainer.tuning.studies import open_study

SPACE = SearchSpace.of(recipe(), item_count=40, event_count=700, longest=12)


def test_a_study_that_an_earlier_trainer_stored_with_old_keys_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with open_study(path, SPACE, "sha") as study:
        study.add_trial(optuna.trial.create_trial(value=0.1))
        raw = recipe().to_json()
        raw["training"] |= {"members": raw["training"].pop("ensemble_size"), "popularity": "none"}
        raw["query_tower"]["features"][0]["description"] = retired_keys._OLD_HISTORY_DESCRIPTION
        study.set_user_attr("recipe", raw)
    with open_study(path, SPACE, "sha") as study:
        assert [trial.value for trial in study.trials if trial.value is not None] == [0.1]
        raw["training"]["members"] = 3
        study.set_user_attr("recipe", raw)
    with pytest.raises(RecipeError, match=r"training\.ensemble_size was 3 and is 1"), open_study(path, SPACE, "sha"):
        pass
