"""The search for a better recipe: Optuna trials on a study file that survives a stop.

A trial trains the towers on the training part and is judged by the validation part; nothing here sees the test part.
What is tried next depends on the seed and on the finished trials alone, so that a search that was stopped and goes on
tries what it would have tried in one go.
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
from trainer.training.train import build_schemas
from trainer.tuning.search_space import SearchSpace
from trainer.tuning.studies import try_again

_WRITTEN = "written"
_RECIPE, _SECONDS, _WHY = "recipe", "seconds", "why"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PRUNED_FROM = 5
"""Complete trials before any is stopped early."""
_TELLING = 10
"""Complete trials before it is said which keys matter."""


class _OutOfTime(Exception):
    """The minutes of a search are over."""


@dataclass(frozen=True)
class Tried:
    """A trial that came to an end.

    Attributes:
        number: of the trial in the study, from 0; trials that were interrupted have one too.
        value: of the metric, at the best epoch where the recipe has patience, else at the last; None where pruned.
        epochs: how many were trained.
        seconds: that took.
        why: why it was given up; empty where it was not.
        recipe: resolved, as of `Recipe.to_json`.
    """

    number: int
    value: float | None
    epochs: int
    seconds: float
    why: str
    recipe: Mapping[str, Any]


class SearchProgress(TrainingProgress, Protocol):
    """What a search reports, beside what each training reports. The methods do nothing unless overridden."""

    def trial(self, number: int, finished: int, total: int) -> None:
        """Reports that trial `number` begins, when `finished` of the `total` trials are finished."""

    def tried(self, tried: Tried, best: Tried | None) -> None:
        """Reports a finished trial, and the best one so far; None where none is complete."""


class SilentSearch(SearchProgress):
    """Reports nothing of a search."""


class Search:
    """The trials of one recipe on one data set. Not to be used by two threads.

    Args:
        study: as of `trainer.tuning.studies.open_study`.
        space: of the recipes.
        data: Data set and its split; trials are trained on the training part and judged on the validation part.
        seed: of what is tried.
        progress: what the text encoders report to; `run` takes what the search itself reports to.
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
        # The first quarter of the epochs tells little: a low learning rate starts slowly.
        warmup = max(1, space.recipe.training.epochs // 4)
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNED_FROM, n_warmup_steps=warmup)

    def run(self, trials: int, *, max_seconds: float = math.inf, watch: SearchProgress | None = None) -> bool:
        """Returns true when the study has so many finished trials, of this and earlier runs; false when time is over.

        A trial that is interrupted, by the end of the time, Ctrl-C or an error, is the first when the search goes on.
        """
        watch, deadline = watch or SilentSearch(), time.monotonic() + max_seconds
        while (finished := self.finished) < trials:
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
                keras.backend.clear_session()  # else the graphs of all trials stay in memory
                gc.collect()
            watch.tried(_tried(self._study.trials[trial.number]), next(iter(self.best(1)), None))
        return True

    @property
    def finished(self) -> int:
        """How many trials came to an end."""
        return len(self._study.get_trials(deepcopy=False, states=_FINISHED))

    @property
    def pruned(self) -> int:
        """How many of those were given up early."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))

    def best(self, count: int) -> list[Tried]:
        """Returns the best complete trials, best first; of equals the earlier one first."""
        complete = [_tried(t) for t in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))[:count]

    def importance(self) -> dict[str, float]:
        """Returns the share of each key in what tells good trials from others, most first (PED-ANOVA).

        Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces".
        Empty where there are too few trials to tell.
        """
        if len(self.best(_TELLING)) < _TELLING:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optuna, where few trials have a key
            return dict(optuna.importance.get_param_importances(self._study))

    @property
    def written(self) -> str:
        """SHA-256 of the recipe that `write` wrote last; empty before."""
        return self._study.user_attrs.get(_WRITTEN, "")

    def write(self, path: Path, text: str) -> None:
        """Writes the recipe, and remembers it as written by this search.

        Raises:
            RunError: it cannot be written.
        """
        self._study.set_user_attr(_WRITTEN, hashlib.sha256(text.encode()).hexdigest())
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write the recipe to {path}: {error}; name another file with --out") from error

    def may_replace(self, path: Path) -> bool:
        """Whether there is no file, or one that this search wrote and nobody changed."""
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
                progress=_Judge(trial, self._metric, recipe.training.epochs, watch, deadline),
            )
        except (TrainingError, tf.errors.ResourceExhaustedError) as error:
            raise optuna.TrialPruned(str(error).splitlines()[0]) from error
        value = float(fitted.epochs[fitted.best_epoch - 1][f"val_{self._metric}"])
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"{self._metric} of the validation part is {value}")
        return value


class _Judge(TrainingProgress):
    """Reports each epoch to the study and stops what is worse than the median of the complete trials."""

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
    """Returns the sampler of one trial, alike whether or not the search was stopped before it."""
    drawn = int(np.random.SeedSequence((seed, finished)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=drawn)


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
    """Returns the recipe of a trial."""
    return loading.parse_stored(tried.recipe, f"trial {tried.number}")
