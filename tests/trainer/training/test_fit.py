"""Training: learning a shop, early stopping, and resuming with a bit-identical result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, command, recipe, write_shop
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.errors import RunError, TrainingError
from trainer.features.schemas import learn_schemas
from trainer.model.trained_model import TrainedModel
from trainer.progress import SilentTraining
from trainer.recipe.recipe import Recipe
from trainer.training import fit as fit_module
from trainer.training.checkpoints import CHECKPOINT
from trainer.training.fit import Fitted

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


def fit(of: Recipe, folder: Path, run: Path | None = None, **arguments: Any) -> Fitted:
    dataset = load_dataset(of, folder)
    parts = splits.split(dataset, of.split)
    schemas = learn_schemas(of, dataset, parts.train)
    return fit_module.fit(of, dataset, schemas, parts.train, **{"validate": None, "folder": run, **arguments})


def weights(fitted: Fitted) -> list[np.ndarray]:
    return [np.array(weight) for tower in fitted.towers for weight in tower.weights]


class KeepAfter(SilentTraining):
    """Copies the folder of a run at the end of an epoch, as a training that is stopped there leaves it."""

    def __init__(self, epoch: int, run: Path, begun: Path) -> None:
        self._last, self._run, self._begun = epoch, run, begun

    def epoch(self, measured: Mapping[str, Any]) -> None:
        if measured["epoch"] == self._last:
            shutil.copytree(self._run, self._begun)


class StopAfter(SilentTraining):
    """Interrupts the training at the end of an epoch, as Ctrl-C does."""

    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def epoch(self, measured: Mapping[str, Any]) -> None:
        if measured["epoch"] == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": "sampled_softmax", "negatives": 10, "hard_negatives": 8},
        {"queue": 30, "log_q": "streaming"},
        {"loss": "mixed_softmax", "negatives": 10},
    ],
    ids=("in_batch", "hard negatives", "queue and streaming", "mixed"),
)
def test_a_resumed_training_ends_bit_identical(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    of = recipe(training={"epochs": 4, **change})
    run, begun = tmp_path / "run", tmp_path / "begun"
    run.mkdir()
    whole = weights(fit(of, folder, run, progress=KeepAfter(2, run, begun)))
    resumed = fit(of, folder, begun, resume=True)
    assert [epoch["epoch"] for epoch in resumed.epochs] == [1, 2, 3, 4]
    for one, other in zip(whole, weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_ends_elsewhere(folder: Path) -> None:
    one, other = (weights(fit(seeded(n), folder)) for n in (1, 2))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(one, other, strict=True))


def seeded(seed: int) -> Recipe:
    raw = recipe(training={"epochs": 1}).to_json()
    from trainer.recipe import loading

    return loading.parse({**raw, "seed": seed}, "shop")


def test_stops_without_progress_and_goes_back_to_the_best_epoch(folder: Path) -> None:
    figures = iter([0.1, 0.5, 0.3, 0.4, 0.2, 0.9])
    kept: list[list[np.ndarray]] = []

    def validate(towers: fit.Towers) -> dict[str, float]:
        kept.append([np.array(weight) for tower in towers for weight in tower.weights])
        return {"recall@10": next(figures)}

    of = recipe(training={"epochs": 6, "patience": 3, "metric": "recall@10"})
    fitted = fit(of, folder, validate=validate)
    # The best is epoch 2; epochs 3 to 5 are no better, so the sixth never comes.
    assert (fitted.best_epoch, len(fitted.epochs)) == (2, 5)
    for one, other in zip(weights(fitted), kept[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_early_stopping_survives_a_resume(folder: Path, tmp_path: Path) -> None:
    of = recipe(training={"epochs": 6, "patience": 2, "metric": "recall@10"})
    with pytest.raises(KeyboardInterrupt):
        fit(of, folder, tmp_path, validate=lambda _: {"recall@10": 0.5}, progress=StopAfter(1))
    fitted = fit(of, folder, tmp_path, validate=lambda _: {"recall@10": 0.4}, resume=True)
    assert (fitted.best_epoch, len(fitted.epochs)) == (1, 3)


def test_each_epoch_tells_what_it_measured(folder: Path, tmp_path: Path) -> None:
    fitted = fit(recipe(training={"epochs": 2}), folder, tmp_path, validate=lambda _: {"ndcg@10": 0.25})
    assert fitted.best_epoch == 2
    for number, epoch in enumerate(fitted.epochs, 1):
        assert epoch["epoch"] == number
        assert epoch["val_ndcg@10"] == 0.25
        assert 0 <= epoch["input_wait_share"] <= 1
        assert epoch["examples_per_second"] * epoch["seconds"] == pytest.approx(60 * 10)  # 12 events a user, 2 held out
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.01}, r"of another training: training.learning_rate was 0.03 and is 0.01"),
        ({}, "is damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fit(recipe(training={"epochs": 1}), folder, tmp_path)
    if not change:
        path = tmp_path / CHECKPOINT
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match=message):
        fit(recipe(training={"epochs": 1, **change}), folder, tmp_path, resume=True)


def test_nothing_to_resume_from_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint"):
        fit(recipe(), folder, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_says_what_to_change(folder: Path) -> None:
    of = recipe(interactions={"weight": "bought_at"}, training={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        fit(of, folder)


LOSSES = ("in_batch_softmax", "sampled_softmax", "mixed_softmax", "full_softmax", "gbce", "bce")


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_the_shop(folder: Path, loss: str) -> None:
    of = recipe(training={"loss": loss, "epochs": 8, "negatives": 20, "temperature": 0.2})
    dataset = load_dataset(of, folder)
    parts = splits.split(dataset, of.split)
    schemas = learn_schemas(of, dataset, parts.train)
    fitted = fit_module.fit(of, dataset, schemas, parts.train, validate=None)
    from trainer.evaluation.evaluate import evaluate_validation

    found = evaluate_validation(TrainedModel(of, schemas, fitted.towers), splits.Data(dataset, parts))
    # The held-out item is one of two of the loved genre that the user does not have: by chance recall@10 is under 0.4.
    assert found["recall@10"] > 0.9


def test_refit_uses_validation_too_and_as_many_epochs_as_were_best(folder: Path, tmp_path: Path) -> None:
    import json

    run = tmp_path / "run"
    command("train", folder / "shop.toml", "--run", run, "--epochs", 3, "--refit", "--json")
    assert json.loads((run / "run.json").read_text())["refitted"] is True
    assert len(json.loads((run / "history.json").read_text())) == 3
    assert (run / "refit" / CHECKPOINT).exists()


def test_a_refit_has_the_learning_rates_that_led_to_the_best_epoch(folder: Path) -> None:
    begun = fit(recipe(training={"epochs": 3, "patience": 2}), folder, epochs=1)
    whole = fit(recipe(training={"epochs": 3}), folder)
    short = fit(recipe(training={"epochs": 1}), folder)
    assert [each["loss"] for each in begun.epochs] == [whole.epochs[0]["loss"]]
    assert begun.epochs[0]["loss"] != short.epochs[0]["loss"]  # whose learning rate ends at 0 after this epoch
    assert begun.best_epoch == 1


def test_resuming_what_was_never_begun_makes_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no checkpoint to resume from"):
        command("train", folder / "shop.toml", "--run", tmp_path / "nothing", "--resume")
    assert not (tmp_path / "nothing").exists()


def test_other_events_are_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    of = recipe(training={"epochs": 1})
    fit(of, folder, tmp_path)
    dataset = load_dataset(of, folder)
    fewer = dataset.events.where(dataset.events.items > 0)
    schemas = learn_schemas(of, dataset, fewer)
    with pytest.raises(RunError, match="the training events have changed"):
        fit_module.fit(of, dataset, schemas, fewer, validate=None, folder=tmp_path, resume=True)


@pytest.mark.parametrize("flag", ["--promote", "--force"])
def test_promoting_needs_a_store(folder: Path, flag: str) -> None:
    with pytest.raises(RunError, match="need --store"):
        command("train", folder / "shop.toml", flag)
