"""Searches for a better recipe with Optuna; the trials are kept in a study file, so that a search can be resumed.

A trial trains the towers on the training part and is judged on the validation part; the test part is never used. The
next trial depends only on the seed and on the finished trials, so a resumed search makes the same trials as one that
was not interrupted.
"""

from __future__ import annotations

import gc
import hashlib
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import optuna
import tensorflow as tf
from optuna.trial import FrozenTrial, Trial, TrialState

from trainer.data.splits import Data
from trainer.errors import RunError, TrainingError
from trainer.evaluation.evaluate import evaluate_validation
from trainer.model.trained_model import TrainedModel
from trainer.progress import SILENT, Progress, TrainingProgress
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.training.fit import fit
from trainer.training.fit_and_refit import build_schemas
from trainer.tuning.search_space import SearchSpace
from trainer.tuning.studies import try_again

_WRITTEN = "written"
_RECIPE, _SECONDS, _WHY = "recipe", "seconds", "why"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PRUNED_FROM = 5
"""Number of complete trials before the first trial may be pruned (stopped early)."""
_MIN_FOR_IMPORTANCE = 10
"""Smallest number of complete trials from which the importance of keys is computed."""


class _OutOfTime(Exception):
    """Raised inside a trial when the time limit of the search is over."""


@dataclass(frozen=True)
class Tried:
    """A finished trial of a search, complete or pruned.

    Attributes:
        number: Number of the trial in the study, from 0; interrupted trials are numbered too.
        value: Validation metric of the best epoch if the recipe has patience, else of the last epoch; None if the trial
            was pruned.
        epochs: Number of epochs that were trained.
        seconds: Duration of the trial in seconds.
        why: Reason why the trial was pruned; empty if it is complete.
        recipe: Resolved recipe of the trial as plain values, as `Recipe.to_json` returns it.
    """

    number: int
    value: float | None
    epochs: int
    seconds: float
    why: str
    recipe: Mapping[str, Any]


class SearchProgress(TrainingProgress, Protocol):
    """Receives the progress of a search and of each of its trainings. The methods do nothing unless overridden."""

    def trial(self, number: int, finished: int, total: int | None) -> None:
        """Reports the start of trial `number`, when `finished` of `total` trials are finished; None: no limit."""

    def tried(self, tried: Tried, best: Tried | None) -> None:
        """Reports a finished trial, and the best complete trial so far; `best` is None if no trial is complete."""


class SilentSearch(SearchProgress):
    """A `SearchProgress` that reports nothing."""


class Search:
    """A search over the recipes of a search space on one data set. Not thread-safe.

    Args:
        study: Study that keeps the trials, opened by `trainer.tuning.studies.open_study`.
        space: Search space, from which trials are drawn.
        data: Data set and its split; trials are trained on the training part and judged on the validation part.
        seed: Seed of the choice of trials.
        progress: Receives the progress of the text encoders; `run` takes the receiver of the progress of the search.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        data: Data,
        seed: int,
        progress: Progress = SILENT,
    ) -> None:
        self._study, self._space, self._data, self._seed = study, space, data, seed
        self._progress = progress
        self._metric = space.recipe.training.metric
        # No pruning in the first quarter of the epochs, because a low learning rate starts slowly.
        warmup = max(1, space.recipe.training.epochs // 4)
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNED_FROM, n_warmup_steps=warmup)

    def run(self, trials: int | None, *, max_seconds: float = math.inf, watch: SearchProgress | None = None) -> bool:
        """Runs trials until the study has `trials` finished ones or the time limit is over.

        Returns whether the study has `trials` finished trials.

        A trial that is interrupted by the time limit, Ctrl-C or an error is repeated first when the search is resumed.

        Args:
            trials: Total number of finished trials to reach, including those of earlier runs. None: until the time
                limit.
            max_seconds: Time limit in seconds. Default: no limit.
            watch: Receives the progress of the search. Default: nothing is reported.
        """
        watch, deadline = watch or SilentSearch(), time.monotonic() + max_seconds
        while trials is None or self.finished < trials:
            finished = self.finished
            if time.monotonic() > deadline:
                return False
            self._study.sampler = _sampler(self._seed, finished)
            trial = self._study.ask()
            watch.trial(trial.number, finished, trials)
            try:
                self._try(trial, watch, deadline)
            except _OutOfTime:
                try_again(self._study, trial.number)
                return False
            except BaseException:
                try_again(self._study, trial.number)
                raise
            finally:
                keras.backend.clear_session()  # otherwise the graphs of all trials stay in memory
                gc.collect()
            watch.tried(_tried(self._study.trials[trial.number]), next(iter(self.best(1)), None))
        return True

    @property
    def finished(self) -> int:
        """Number of finished trials of the study, complete or pruned."""
        return len(self._study.get_trials(deepcopy=False, states=_FINISHED))

    @property
    def pruned(self) -> int:
        """Number of finished trials of the study that were pruned."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))

    def best(self, count: int) -> list[Tried]:
        """Returns up to `count` complete trials, best first; among equally good trials, earlier ones come first."""
        complete = [_tried(t) for t in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))[:count]

    def importance(self) -> dict[str, float]:
        """Returns the importance of each searched key by name, most important first, as shares that sum to 1.

        The method is PED-ANOVA (Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
        Arbitrary Subspaces"). The result is empty if there are fewer than 10 complete trials.
        """
        if len(self.best(_MIN_FOR_IMPORTANCE)) < _MIN_FOR_IMPORTANCE:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns about keys that few trials have
            return dict(optuna.importance.get_param_importances(self._study))

    @property
    def written(self) -> str:
        """SHA-256 of the recipe file that `write` wrote last, stored in the study; empty if it wrote none."""
        return self._study.user_attrs.get(_WRITTEN, "")

    def write(self, path: Path, text: str) -> None:
        """Writes the text of a recipe to a file, and stores its hash in the study, for `may_replace`.

        Raises:
            RunError: The file cannot be written.
        """
        self._study.set_user_attr(_WRITTEN, hashlib.sha256(text.encode()).hexdigest())
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write the recipe to {path}: {error}; name another file with --out") from error

    def may_replace(self, path: Path) -> bool:
        """Returns whether a file is missing, or was written by this search and not changed since."""
        return not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() == self.written

    def _try(self, trial: Trial, watch: SearchProgress, deadline: float) -> None:
        began = time.monotonic()
        try:
            recipe = self._space.choose(trial)
            trial.set_user_attr(_RECIPE, recipe.to_json())
            value = self._train(recipe, trial, watch, deadline)
        except optuna.TrialPruned as pruned:
            trial.set_user_attr(_WHY, str(pruned))
            trial.set_user_attr(_SECONDS, time.monotonic() - began)
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        trial.set_user_attr(_SECONDS, time.monotonic() - began)
        self._study.tell(trial, value)

    def _train(self, recipe: Recipe, trial: Trial, watch: SearchProgress, deadline: float) -> float:
        dataset, parts = self._data
        train = parts.to_fit_on(parts.train)
        schemas = build_schemas(recipe, dataset, train, self._progress)
        try:
            fitted = fit(
                recipe,
                dataset,
                schemas,
                train,
                validate=lambda towers: evaluate_validation(TrainedModel(recipe, schemas, towers), self._data),
                progress=_TrialProgress(trial, self._metric, recipe.training.epochs, watch, deadline),
            )
        except (TrainingError, tf.errors.ResourceExhaustedError) as error:
            raise optuna.TrialPruned(str(error).splitlines()[0]) from error
        value = float(fitted.epochs[fitted.best_epoch - 1][f"val_{self._metric}"])
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"{self._metric} of the validation part is {value}")
        return value


class _TrialProgress(TrainingProgress):
    """Reports each epoch to the study, and prunes a trial that is worse than the median of the complete trials."""

    def __init__(self, trial: Trial, metric: str, epochs: int, watch: SearchProgress, deadline: float) -> None:
        self._trial, self._metric, self._epochs, self._watch, self._deadline = trial, metric, epochs, watch, deadline

    def begin(self, epochs: int, steps: int, done: int) -> None:
        self._watch.begin(epochs, steps, done)

    def step(self, loss: float) -> None:
        self._watch.step(loss)
        if time.monotonic() > self._deadline:
            raise _OutOfTime

    def epoch(self, measured: Mapping[str, Any]) -> None:
        self._watch.epoch(measured)
        self._trial.report(measured[f"val_{self._metric}"], measured["epoch"])
        if measured["epoch"] < self._epochs and self._trial.should_prune():
            raise optuna.TrialPruned(f"below the median after epoch {measured['epoch']}")


def _sampler(seed: int, finished: int) -> optuna.samplers.BaseSampler:
    """Returns the Optuna sampler for the next trial.

    It depends on nothing but the seed and the number of finished trials, so interruptions do not change the search.
    """
    trial_seed = int(np.random.SeedSequence((seed, finished)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=trial_seed)


def _tried(trial: FrozenTrial) -> Tried:
    attributes = trial.user_attrs
    return Tried(
        trial.number,
        trial.value if trial.state == TrialState.COMPLETE else None,
        len(trial.intermediate_values),
        attributes.get(_SECONDS, 0.0),
        attributes.get(_WHY, ""),
        attributes.get(_RECIPE, {}),
    )


def recipe_of(tried: Tried) -> Recipe:
    """Returns the recipe that a finished trial trained."""
    return loading.parse_stored(tried.recipe, f"trial {tried.number}")
