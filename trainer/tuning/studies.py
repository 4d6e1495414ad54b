"""Opens the study file of a search, which one process at a time may use, for one recipe and one data set."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from trainer.errors import RecipeError, RunError
from trainer.recipe import retired_keys
from trainer.recipe.loading import differences, parse_stored
from trainer.recipe.recipe import Recipe
from trainer.tuning.search_space import SearchSpace

_RECIPE, _DATA, _SPACE = "recipe", "data", "space"


@contextlib.contextmanager
def open_study(path: Path, space: SearchSpace, data_sha256: str) -> Iterator[optuna.Study]:
    """Opens the study in a file, or creates it, and yields it; the file is locked inside the context.

    Trials that were running when an earlier search was killed are marked as failed, and repeated first.

    Args:
        path: SQLite file; created if it is missing.
        space: Search space of the study; its original recipe is the first trial.
        data_sha256: SHA-256 of the data, see `digest_data`.

    Raises:
        RunError: The file is not a study, or another process uses it.
        RecipeError: The study belongs to another recipe, other data or another search space.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _locked(path):
        url = URL.create("sqlite", database=str(path)).render_as_string()
        try:
            storage = optuna.storages.RDBStorage(url)
            study = optuna.create_study(
                storage=storage, study_name=space.recipe.name, direction="maximize", load_if_exists=True
            )
        except (SQLAlchemyError, RuntimeError) as error:
            raise RunError(
                f"{path} is not a study of this version of Optuna ({type(error).__name__}); name another file "
                "with --study"
            ) from error
        try:
            _check_same(study, space, data_sha256, path)
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                try_again(study, trial.number)
            if not study.trials:
                study.enqueue_trial(space.own_values())
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


def try_again(study: optuna.Study, number: int) -> None:
    """Marks an interrupted trial as failed and enqueues its values as the next trial; leaves a finished trial alone."""
    if study.trials[number].state.is_finished():
        return
    study.tell(number, state=TrialState.FAIL)
    trial = study.trials[number]
    study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})


def digest_data(recipe: Recipe, folder: Path) -> str:
    """Returns the SHA-256 of the tables of a recipe, which are in `folder`."""
    tables = (recipe.interactions, recipe.items, recipe.users)
    digest = hashlib.sha256()
    for table in tables:
        if table is not None:
            with (folder / table.path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file in the folder of the study, as two processes would repeat each other's running trials.

    Raises:
        RunError: Another process holds the lock.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        file = lock.open("w")
    except OSError as error:
        raise RunError(f"cannot write the lock file {lock}: {error}; name another file with --study") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process searches in {path}; wait for it, or name another file with --study"
            ) from error
        yield


def _check_same(study: optuna.Study, space: SearchSpace, data_sha256: str, path: Path) -> None:
    """Checks that a study has this recipe, data and search space; a study without trials stores them.

    Raises:
        RecipeError: The study belongs to another recipe, other data or another search space.
    """
    now = {_RECIPE: space.recipe.to_json(), _DATA: data_sha256, _SPACE: space.describe()}
    if not study.trials:
        for name, value in now.items():
            study.set_user_attr(name, value)
        return
    before = study.user_attrs
    stored = before.get(_RECIPE, {})
    begun_with = parse_stored(stored, str(path)).to_json() if stored else {}
    changed = differences(begun_with, now[_RECIPE])
    changed += [f"{key} no longer exists" for key in retired_keys.unsupported(stored)]
    if before.get(_DATA) != data_sha256:
        changed.append("the data has changed")
    if not changed and before.get(_SPACE) != now[_SPACE]:
        names = sorted(before.get(_SPACE, {}).keys() ^ now[_SPACE].keys())
        changed.append(f"the keys that are searched over, or their ranges, have changed {names or ''}".strip())
    if changed:
        raise RecipeError(
            f"the study {study.study_name!r} in {path} cannot be resumed: {'; '.join(changed)}. Use the recipe, data "
            "and options that it was started with, or start another study with --study"
        )
