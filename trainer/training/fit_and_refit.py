"""Trains all towers of a recipe, and trains them again on training and validation together if the recipe says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.data.splits import Data
from trainer.errors import RunError
from trainer.evaluation.evaluate import evaluate_validation
from trainer.features.schemas import Schemas, learn_schemas, text_columns
from trainer.model import devices
from trainer.model.ensemble import Towers, join
from trainer.model.trained_model import TrainedModel
from trainer.progress import SILENT, Progress, format_validation
from trainer.recipe.recipe import Recipe
from trainer.recipe.training import Training
from trainer.text import building
from trainer.training import popularity_prior
from trainer.training.checkpoints import CHECKPOINT
from trainer.training.fit import Fitted, Validate, fit
from trainer.training.run_folder import check_run_folder
from trainer.training.saved_run import Run
from trainer.training.worker_checks import check_workers
from trainer.training.workers import Workers

_REFIT = "refit"
_SEED_STEP = 1000


def fit_and_choose(
    recipe: Recipe,
    data_folder: Path,
    data: Data,
    folder: Path | None,
    *,
    resume: bool,
    refit_only: bool = False,
    progress: Progress = SILENT,
    workers: Workers | None = None,
) -> Run:
    """Trains the model of a recipe and returns the finished run, not yet saved. The test part is not used.

    Args:
        recipe: Training configuration.
        data_folder: Folder that the recipe's paths are relative to.
        data: Data set and its split; the best epoch is chosen on the validation part.
        folder: Folder of the run for the checkpoints, created if missing. None for all workers but the chief.
        resume: Whether to continue from the checkpoints in `folder`.
        refit_only: Whether to train on training and validation at once, for all epochs of the recipe. This takes half
            the time where the number of epochs is known.
        progress: Receives the progress of the training.
        workers: Processes that train together and all call this function; all return the same model. Default: this
            process alone, on all its devices.

    Raises:
        TrainingError: The loss is not finite, or another worker is lost.
        RunError: The folder cannot be written, holds no checkpoint to resume from, or holds a finished run; or workers
            have other data, or cannot train this recipe.
    """
    if folder is not None:
        check_run_folder(folder, resume=resume)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error}") from error
    workers = workers or Workers(devices.strategy())
    try:
        with workers.naming_lost_workers():
            check_workers(recipe, data, workers)
            if refit_only:
                best_epochs = [recipe.training.epochs] * recipe.training.ensemble_size
                model = _refit(recipe, data, folder, best_epochs, workers, resume=resume, progress=progress)
                return Run.of(model, data_folder, refitted=True, epochs=[])
            return _fit(recipe, data_folder, data, folder, workers, resume=resume, progress=progress)
    except KeyboardInterrupt:
        if folder is not None:
            progress.note(f"stopped; go on with the same command and --run {folder} --resume")
        raise


def build_schemas(recipe: Recipe, dataset: Dataset, train: Events, progress: Progress = SILENT) -> Schemas:
    """Returns the feature schemas of both towers; their text encoders are downloaded and distilled as needed.

    Args:
        recipe: Recipe that describes both towers.
        dataset: Users and items.
        train: Training events.
        progress: Receives the progress of the text encoders, now and when they are used later.

    Raises:
        TextError: A checkpoint cannot be used.
    """
    encoders = building.build(text_columns(recipe, dataset, train), recipe.checkpoints, progress)
    return learn_schemas(recipe, dataset, train, encoders)


def note_precision(spec: Training, progress: Progress) -> None:
    """Reports a note if the recipe has 16-bit precision and there is no GPU."""
    if spec.precision != "float32" and not tf.config.list_physical_devices("GPU"):
        progress.note(
            f"note: training.precision is {spec.precision}, and there is no GPU; a CPU is seldom faster with it and "
            "often much slower than with float32, so leave the key out here."
        )


def note_prior(spec: Training, train: Events, item_count: int, progress: Progress) -> None:
    """Reports how many events the recent-popularity prior counts, if the recipe has a prior.

    Args:
        spec: Training keys of the recipe.
        train: Training events.
        item_count: Number of items of the catalogue.
        progress: Receives the note.
    """
    if spec.prior_weight:
        counts = popularity_prior.count_recent(spec, train.relevant, item_count)
        progress.note(
            f"prior: {counts.sum():,} events of {np.count_nonzero(counts):,} items in the newest {spec.prior_days:g} "
            f"days of training, weight {spec.prior_weight:g}"
        )


def _fit(
    recipe: Recipe,
    data_folder: Path,
    data: Data,
    folder: Path | None,
    workers: Workers,
    *,
    resume: bool,
    progress: Progress,
) -> Run:
    note_precision(recipe.training, progress)
    dataset, parts = data
    train = parts.to_fit_on(parts.train)
    note_prior(recipe.training, train, len(dataset.items.ids), progress)
    schemas = build_schemas(recipe, dataset, train, progress)
    members = [
        _fit_member(
            member,
            dataset,
            schemas,
            train,
            validate=lambda towers: evaluate_validation(TrainedModel(recipe, schemas, towers), data),
            folder=folder and _member_folder(folder, number),
            workers=workers,
            resume=resume,
            title=f"training{_title_suffix(recipe, number)}",
            progress=progress,
        )
        for number, member in enumerate(_members(recipe))
    ]
    epochs = [measured for number, fitted in enumerate(members, 1) for measured in _with_member(recipe, fitted, number)]
    model = TrainedModel(recipe, schemas, join([fitted.towers for fitted in members]))
    if len(members) > 1 and workers.is_chief:
        metrics = evaluate_validation(model, data)
        progress.note(f"all {len(members)} as one  valid: {format_validation(metrics)}")
    if not recipe.training.refit:
        return Run.of(model, data_folder, epochs=epochs)
    best_epochs = [fitted.best_epoch for fitted in members]
    refitted = _refit(recipe, data, folder, best_epochs, workers, resume=resume, progress=progress)
    return Run.of(refitted, data_folder, epochs=epochs, refitted=True, before_refit=model)


def _refit(
    recipe: Recipe,
    data: Data,
    folder: Path | None,
    best_epochs: Sequence[int],
    workers: Workers,
    *,
    resume: bool,
    progress: Progress,
) -> TrainedModel:
    """Returns a model trained on training and validation together.

    Args:
        recipe: Training configuration.
        data: Data set and its split.
        folder: Folder of the run; None for all workers but the chief.
        best_epochs: Number of epochs of each member of the ensemble, which validation chose.
        workers: Processes that train together.
        resume: Whether to continue from the checkpoints in `folder`.
        progress: Receives the progress of the training.
    """
    dataset, parts = data
    known = parts.to_fit_on(parts.known)
    schemas = build_schemas(recipe, dataset, known, progress)
    members: list[Towers] = []
    for number, (member, epochs) in enumerate(zip(_members(recipe), best_epochs, strict=True)):
        fitted = _fit_member(
            member,
            dataset,
            schemas,
            known,
            validate=None,
            epochs=epochs,  # with the learning rates that led to the best epoch
            folder=folder and _member_folder(folder / _REFIT, number),
            workers=workers,
            resume=resume,
            title=f"fitting again{_title_suffix(recipe, number)}",
            progress=progress,
        )
        members.append(fitted.towers)
    return TrainedModel(recipe, schemas, join(members))


def _members(recipe: Recipe) -> list[Recipe]:
    """Returns the recipe of each member of the ensemble, with seeds that runs with other small seeds do not share."""
    return [
        dataclasses.replace(recipe, seed=recipe.seed + _SEED_STEP * at) for at in range(recipe.training.ensemble_size)
    ]


def _member_folder(folder: Path, number: int) -> Path:
    return folder / f"member-{number + 1}" if number else folder


def _title_suffix(recipe: Recipe, number: int) -> str:
    return f" {number + 1} of {recipe.training.ensemble_size}" if recipe.training.ensemble_size > 1 else ""


def _with_member(recipe: Recipe, fitted: Fitted, number: int) -> list[dict[str, Any]]:
    """Returns the measurements of each epoch by name, with the number of the ensemble member if there are several."""
    return [{"member": number, **each} if recipe.training.ensemble_size > 1 else each for each in fitted.epochs]


def _fit_member(
    recipe: Recipe,
    dataset: Dataset,
    schemas: Schemas,
    events: Events,
    *,
    validate: Validate | None,
    epochs: int | None = None,
    folder: Path | None,
    workers: Workers,
    resume: bool,
    title: str,
    progress: Progress,
) -> Fitted:
    """Trains one member of the ensemble. With `resume`, it continues from the member's checkpoint if there is one.

    The other arguments are those of `trainer.training.fit.fit`; `title` names the training in the progress report.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with progress.training(title) as reported:
        return fit(
            recipe,
            dataset,
            schemas,
            events,
            validate=validate,
            epochs=epochs,
            folder=folder,
            resume=resume and folder is not None and (folder / CHECKPOINT).exists(),
            progress=reported,
            workers=workers,
        )
