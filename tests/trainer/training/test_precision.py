"""Mixed precision: training in 16 bits learns the shop, and exported towers are float32."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, Recorded, recipe, write_shop
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.data.splits import Data
from trainer.evaluation.evaluate import evaluate_validation
from trainer.features.schemas import learn_schemas
from trainer.model.trained_model import TrainedModel
from trainer.progress import SilentTraining
from trainer.publishing.export import export_query_tower
from trainer.recipe.recipe import Recipe
from trainer.training import fit_and_refit
from trainer.training.fit import Fitted, _tensors, fit, prepare

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)
MIXED = ("mixed_bfloat16", "mixed_float16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


class Task:
    """A recipe of the shop, ready to be fitted."""

    def __init__(self, folder: Path, precision: str, **history: Any) -> None:
        given = [
            {"name": "history", "kind": "history", "max_values": 10, **history},
            {"name": "age", "kind": "numeric", "dropout": 0.2},
            {"name": "gender", "kind": "categorical", "embedding_dim": 2},
        ]
        self.recipe: Recipe = recipe(
            query_tower={"features": given}, training={"precision": precision, "epochs": 8, "temperature": 0.2}
        )
        self.dataset = load_dataset(self.recipe, folder)
        self.parts = splits.split(self.dataset, self.recipe.split)
        self.schemas = learn_schemas(self.recipe, self.dataset, self.parts.train)

    def fit(self, **arguments: Any) -> Fitted:
        given = (self.recipe, self.dataset, self.schemas, self.parts.train)
        return fit(*given, **{"validate": None, **arguments})

    def prepared(self) -> Any:
        return prepare(self.recipe, self.dataset, self.schemas, self.parts.train)


class Trained:
    """A task that was fitted in 8 epochs.

    Attributes:
        task: the task.
        fitted: what its training made.
        begun: folder of the run as it was after the third epoch.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        class KeepThird(SilentTraining):
            def epoch(self, measured: Mapping[str, Any]) -> None:
                if measured["epoch"] == 3:
                    shutil.copytree(folder / "run", folder / "begun")

        (folder / "run").mkdir()
        self.task, self.begun = task, folder / "begun"
        self.fitted = task.fit(folder=folder / "run", progress=KeepThird())


@pytest.fixture(scope="module")
def train(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """Trains with a precision and keys of the history, once each."""

    @cache
    def train(precision: str, **history: Any) -> Trained:
        return Trained(Task(folder, precision, **history), tmp_path_factory.mktemp("trained"))

    return train


BOTH = [("mixed_bfloat16", {}), ("mixed_float16", {"encoder": "transformer"})]


@pytest.mark.parametrize(
    ("precision", "history"),
    [*BOTH, ("mixed_bfloat16", {"items": "tower"}), ("mixed_float16", {"encoder": "gru"})],
    ids=str,
)
def test_mixed_precision_learns_the_shop(
    train: Callable[..., Trained], precision: str, history: dict[str, Any]
) -> None:
    trained = train(precision, **history)
    task = trained.task
    model = TrainedModel(task.recipe, task.schemas, trained.fitted.towers)
    found = evaluate_validation(model, Data(task.dataset, task.parts))
    # By chance recall@10 is under 0.4, see test_training.
    assert found["recall@10"] > 0.8


def test_the_prior_goes_with_mixed_precision(folder: Path) -> None:
    of = recipe(training={"precision": "mixed_float16", "epochs": 1, "prior_weight": 0.1})
    dataset = load_dataset(of, folder)
    train = splits.split(dataset, of.split).train
    fitted = fit(of, dataset, learn_schemas(of, dataset, train), train, validate=None)
    assert np.isfinite(fitted.epochs[0]["loss"])


@pytest.mark.parametrize("precision", MIXED)
def test_dense_layers_compute_in_16_bits_and_keep_weights_of_32(folder: Path, precision: str) -> None:
    _, model = Task(folder, precision).prepared()
    dense = [layer for layer in model.item_tower.layers if isinstance(layer, keras.layers.Dense)]
    assert {layer.compute_dtype for layer in dense} == {precision.removeprefix("mixed_")}
    assert {str(weight.dtype) for layer in dense for weight in layer.weights} == {"float32"}
    assert str(model.item_tower.output.dtype) == "float32"
    assert keras.config.dtype_policy().name == "float32"  # nobody else's layers are touched


def test_float16_scales_its_loss_and_skips_what_overflows(folder: Path) -> None:
    examples, model = Task(folder, "mixed_float16").prepared()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    batch = _tensors(next(examples.epoch(0)))
    model.optimizer.dynamic_scale.assign(3e38)  # times any loss above 1.2 this is infinite
    before = [np.array(variable) for variable in model.trainable_variables]
    assert np.isfinite(float(model.train_on(batch)))
    for one, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, np.array(variable))
    model.optimizer.dynamic_scale.assign(1024.0)
    model.train_on(batch)
    assert any((one != np.array(v)).any() for one, v in zip(before, model.trainable_variables, strict=True))


@pytest.mark.parametrize(("precision", "history"), BOTH, ids=str)
def test_towers_that_are_exported_compute_in_float32(
    train: Callable[..., Trained], tmp_path: Path, precision: str, history: dict[str, Any]
) -> None:
    trained = train(precision, **history)
    query_tower, item_tower = trained.fitted.towers
    for tower in (query_tower, item_tower):
        assert {layer.compute_dtype for layer in tower.layers} == {"float32"}
    columns = {"history": [["p01", "p05"], []], "age": [30.0, None], "gender": ["f", None]}
    inputs = trained.task.schemas.query.encode(columns, 2)
    # It compares what it wrote with the tower, to 1e-5: an answer computed in 16 bits differs by 1e-3.
    export_query_tower(query_tower, inputs, tmp_path / "saved", tmp_path / "tower.tflite")


def test_a_processor_without_a_gpu_is_told_of(folder: Path) -> None:
    task = Task(folder, "mixed_bfloat16")
    for precision, said in (("mixed_bfloat16", True), ("float32", False)):
        progress = Recorded()
        fit_and_refit.note_precision(dataclasses.replace(task.recipe.training, precision=precision), progress)
        assert ["there is no GPU" in note for note in progress.notes] == [True] * said


@pytest.mark.parametrize(("precision", "history"), BOTH, ids=str)
def test_resumes_bit_identical_in_mixed_precision(
    train: Callable[..., Trained], precision: str, history: dict[str, Any]
) -> None:
    trained = train(precision, **history)
    resumed = trained.task.fit(folder=trained.begun, resume=True)
    assert len(resumed.epochs) == 8
    for one, other in zip(trained.fitted.towers, resumed.towers, strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
