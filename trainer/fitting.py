"""A run from a recipe: fitted, the best epoch chosen on validation, and fitted again where the recipe says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tensorflow as tf

from trainer import schema, training
from trainer.checkpoints import CHECKPOINT
from trainer.console import console
from trainer.data import Dataset
from trainer.errors import RunError
from trainer.evaluation import evaluate_validation
from trainer.progress import EpochProgress
from trainer.recipe import Recipe
from trainer.recipe_training import Training
from trainer.runs import Run
from trainer.splits import Parts

_REFIT = "refit"


def fit_and_choose(
    recipe: Recipe, data_folder: Path, dataset: Dataset, parts: Parts, folder: Path, *, resume: bool
) -> Run:
    """Returns the finished run, not yet saved. The test part is not looked at.

    Args:
        recipe: all of it.
        data_folder: that its paths are relative to.
        dataset: users and items.
        parts: training, and validation to choose the epoch by.
        folder: of the run; made where it is missing. Holds the checkpoints.
        resume: whether to go on from them.

    Raises:
        TrainingError: the loss is not finite.
        RunError: the folder cannot be written, or holds no checkpoint to resume from.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} holds no checkpoint to resume from; start without --resume")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error}") from error
    if (folder / CHECKPOINT).exists() and not resume:
        console.print(f"note: {folder} holds a checkpoint, which is replaced; --resume would go on from it.")
    try:
        return _fit(recipe, data_folder, dataset, parts, folder, resume=resume)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with the same command and --run {folder} --resume")
        raise


def note_precision(spec: Training) -> None:
    """Prints a note where 16 bits are asked for and there is no GPU."""
    if spec.precision != "float32" and not tf.config.list_physical_devices("GPU"):
        console.print(
            f"note: training.precision is {spec.precision} and no GPU is found: a CPU computes the same, seldom faster "
            "and often much slower than in float32; leave the key out here."
        )


def _fit(recipe: Recipe, data_folder: Path, dataset: Dataset, parts: Parts, folder: Path, *, resume: bool) -> Run:
    note_precision(recipe.training)
    train = parts.to_fit_on(parts.train)
    schemas = schema.build(recipe, dataset, train)
    progress = EpochProgress()
    try:
        fitted = training.fit(
            recipe,
            dataset,
            schemas,
            train,
            validate=lambda towers: evaluate_validation(recipe, dataset, schemas, towers, parts),
            folder=folder,
            resume=resume,
            progress=progress,
        )
    finally:
        progress.stop()
    run = Run.of(recipe, data_folder, schemas, fitted.towers, epochs=fitted.epochs)
    if not recipe.training.refit:
        return run
    again, schemas = _refit(recipe, dataset, parts, folder, fitted.best_epoch, resume=resume)
    return dataclasses.replace(run, schemas=schemas, towers=again.towers, refitted=True, before=run)


def _refit(
    recipe: Recipe, dataset: Dataset, parts: Parts, folder: Path, epochs: int, *, resume: bool
) -> tuple[training.Fitted, schema.Schemas]:
    """Returns towers fitted on all that is known before the test, for a number of epochs that validation chose."""
    shorter = dataclasses.replace(recipe.training, epochs=epochs, patience=0)
    known = parts.to_fit_on(parts.known)
    schemas = schema.build(recipe, dataset, known)
    inner = folder / _REFIT
    inner.mkdir(exist_ok=True)
    progress = EpochProgress("fitting again")
    try:
        fitted = training.fit(
            dataclasses.replace(recipe, training=shorter),
            dataset,
            schemas,
            known,
            validate=None,
            folder=inner,
            resume=resume and (inner / CHECKPOINT).exists(),
            progress=progress,
        )
    finally:
        progress.stop()
    return fitted, schemas
