"""Ensembles: several pairs of towers combined into one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, command, recipe, write_shop
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.errors import RecipeError
from trainer.features.schemas import Schemas, learn_schemas
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.model.ensemble import Towers
from trainer.recipe import loading
from trainer.training import fit_and_refit
from trainer.training.checkpoints import CHECKPOINT
from trainer.training.fit import Fitted, fit
from trainer.training.saved_run import Run

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

OF = recipe(training={"epochs": 2, "ensemble_size": 2, "refit": True})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path, run_folder: Path) -> Run:
    """The run of `OF`, saved in `run_folder`."""
    run = fit_run(OF, folder, run_folder)
    run.save(run_folder)
    return run


def scores(of: loading.Recipe, folder: Path, schemas: Schemas, towers: Towers) -> np.ndarray:
    dataset = load_dataset(of, folder)
    known = splits.split(dataset, of.split).train
    users = np.arange(len(dataset.user_ids))
    queries = embed_queries(towers[0], schemas, raw_queries(of, dataset, schemas, known, users), len(users))
    vectors = embed_items(towers[1], schemas, dataset)
    for each in (queries, vectors):
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1.0, atol=1e-5)
    return queries @ vectors.T  # [users, items]


def fit_run(of: loading.Recipe, folder: Path, run: Path, *, resume: bool = False) -> Run:
    dataset = load_dataset(of, folder)
    data = splits.Data(dataset, splits.split(dataset, of.split))
    return fit_and_refit.fit_and_choose(of, folder, data, run, resume=resume)


def test_the_score_is_the_mean_of_those_of_towers_of_other_seeds(run: Run, folder: Path) -> None:
    dataset = load_dataset(OF, folder)
    train = splits.split(dataset, OF.split).train
    alone, losses = list[np.ndarray](), list[tuple[int, int, float]]()
    for member, seed in enumerate((OF.seed, OF.seed + 1000), 1):
        of = dataclasses.replace(OF, seed=seed)
        schemas = learn_schemas(of, dataset, train)
        fitted: Fitted = fit(of, dataset, schemas, train, validate=None)
        alone.append(scores(of, folder, schemas, fitted.towers))
        losses += [(member, each["epoch"], each["loss"]) for each in fitted.epochs]
    assert not np.allclose(*alone, atol=0.01)
    assert [(each["member"], each["epoch"], each["loss"]) for each in run.epochs] == losses
    assert run.before_refit is not None
    found = scores(OF, folder, run.before_refit.schemas, run.before_refit.towers)
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-5)
    assert [(member, epoch) for member, epoch, _ in losses] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_it_is_kept_and_published_as_any_other(run: Run, run_folder: Path, tmp_path: Path) -> None:
    command("publish", run_folder, "--store", tmp_path)
    (bundle,) = (tmp_path / "bundles").iterdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    kept = Run.load(run_folder)
    assert manifest["dimension"] == 2 * kept.model.recipe.training.dimension
    assert kept.model.towers[0].output_shape == (None, manifest["dimension"])


def test_stopped_within_a_member_it_goes_on_from_there(
    run: Run, run_folder: Path, folder: Path, tmp_path: Path
) -> None:
    begun = shutil.copytree(run_folder, tmp_path / "begun")
    (begun / "member-2" / CHECKPOINT).unlink()  # as if it had been stopped behind the first one
    again = fit_run(OF, folder, begun, resume=True)
    assert run.before_refit is not None
    assert again.before_refit is not None
    for one, other in zip(run.before_refit.towers, again.before_refit.towers, strict=True):
        for weight, same in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(np.array(weight), np.array(same))


def test_each_member_is_fitted_again_for_its_own_epochs(run: Run, run_folder: Path) -> None:
    assert run.refitted
    assert run.before_refit is not None
    assert [(run_folder / "refit" / name / CHECKPOINT).exists() for name in ("", "member-2")] == [True, True]


def test_no_members_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"training\.ensemble_size"):
        recipe(training={"ensemble_size": 0})
