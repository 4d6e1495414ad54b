"""The file of a search: one process at a time, and trials of one recipe on one data set only."""

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
from trainer.recipe.loading import differences
from trainer.recipe.recipe import Recipe
from trainer.tuning.search_space import SearchSpace

_RECIPE, _DATA, _SPACE = "recipe", "data", "space"


@contextlib.contextmanager
def open_study(path: Path, space: SearchSpace, data_sha256: str) -> Iterator[optuna.Study]:
    """Gives the study that is kept in a file under the name of the recipe, begun or gone on with.

    Trials that ran when the search was killed are marked as failed and tried again first.

    Args:
        path: of the SQLite file; made where it is missing.
        space: of the recipes; the one that it starts from is the first trial.
        data_sha256: of the data, see `digest_data`.

    Raises:
        RunError: the file is no study, or another process searches in it.
        RecipeError: the study is of another recipe, other data or another search space.
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
                f"{path} is no study of this version of Optuna ({type(error).__name__}); name another file with --study"
            ) from error
        try:
            _agree(study, space, data_sha256, path)
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                try_again(study, trial.number)
            if not study.trials:
                study.enqueue_trial(space.own_values())
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


def try_again(study: optuna.Study, number: int) -> None:
    """Marks a trial that was interrupted as failed, and has its values tried first; leaves one that ended alone."""
    if study.trials[number].state.is_finished():
        return
    study.tell(number, state=TrialState.FAIL)
    trial = study.trials[number]
    study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})


def digest_data(recipe: Recipe, folder: Path) -> str:
    """Returns the SHA-256 of the files that a recipe reads."""
    tables = (recipe.interactions, recipe.items, recipe.users)
    digest = hashlib.sha256()
    for table in tables:
        if table is not None:
            with (folder / table.path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock beside the study: two processes would take each other's running trials for dead ones."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        file = lock.open("w")
    except OSError as error:
        raise RunError(f"cannot write beside the study {path}: {error}; name another file with --study") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process searches in {path}; wait for it, or name another file") from error
        yield


def _agree(study: optuna.Study, space: SearchSpace, data_sha256: str, path: Path) -> None:
    """Raises where the trials of a study cannot be compared with those to come; a new one notes what it is of."""
    now = {_RECIPE: space.recipe.to_json(), _DATA: data_sha256, _SPACE: space.describe()}
    if not study.trials:
        for name, value in now.items():
            study.set_user_attr(name, value)
        return
    before = study.user_attrs
    stored = before.get(_RECIPE, {})
    changed = differences(retired_keys.migrate(stored), now[_RECIPE])
    changed += [f"{key} no longer exists" for key in retired_keys.unsupported(stored)]
    if before.get(_DATA) != data_sha256:
        changed.append("the data has changed")
    if not changed and before.get(_SPACE) != now[_SPACE]:
        names = sorted(before.get(_SPACE, {}).keys() ^ now[_SPACE].keys())
        changed.append(f"the keys that are searched over, or their ranges, have changed {names or ''}".strip())
    if changed:
        raise RecipeError(
            f"the study {study.study_name!r} in {path} is of something else: {'; '.join(changed)}. Go on with what it "
            "was begun with, or begin another with --study"
        )
