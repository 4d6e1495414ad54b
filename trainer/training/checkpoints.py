"""Checkpoints: all that a training needs to go on as if it had never stopped.

A checkpoint is one ``.npz`` of plain arrays: the variables of model and optimizer (seeds of dropout and sampling among
them) in their order, the best variables so far, and what was measured. It is replaced by an atomic rename.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import RunError
from trainer.recipe import loading, retired_keys

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Origin:
    """What a training is of.

    Attributes:
        recipe: resolved, as of `trainer.recipe.recipe.Recipe.to_json`.
        events_sha256: of the events that it is fitted on.
    """

    recipe: dict[str, Any]
    events_sha256: str


@dataclass
class State:
    """Where a training stands.

    Attributes:
        epochs: measured ones, oldest first: what `trainer.training.fit.fit` reports of each.
        best_epoch: of those, counted from 1; 0 before the first.
        best_value: of the metric that choice is by.
        best: the variables of the towers then; empty where the last epoch is always taken.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = float("-inf")
    best: list[np.ndarray] = field(default_factory=list)


def write(folder: Path, origin: Origin, state: State, variables: Sequence[Any]) -> None:
    """Writes the checkpoint of a run.

    Args:
        folder: of the run, which exists.
        origin: of the training; `read` refuses another one.
        state: where the training stands.
        variables: of model and optimizer.

    Raises:
        RunError: it cannot be written; the one before is still there.
    """
    head = {
        "recipe": origin.recipe,
        "events_sha256": origin.events_sha256,
        "epochs": state.epochs,
        "best_epoch": state.best_epoch,
        "best_value": state.best_value,
    }
    arrays = {f"variable_{at}": np.asarray(variable) for at, variable in enumerate(variables)}
    arrays |= {f"best_{at}": value for at, value in enumerate(state.best)}
    temporary = folder / f".{CHECKPOINT}.tmp"
    try:
        with temporary.open("wb") as file:
            np.savez(file, head=np.frombuffer(json.dumps(head).encode(), dtype=np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / CHECKPOINT)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write the checkpoint to {folder}: {error}") from error


def read(folder: Path, origin: Origin, variables: Sequence[Any]) -> State:
    """Fills `variables` from the checkpoint of a run and returns where it stood.

    Raises:
        RunError: there is none, it is damaged, or it is of another recipe or other data.
    """
    path = folder / CHECKPOINT
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes().decode())
            # Keys that came since have their defaults.
            begun_with = loading.parse_stored(head["recipe"], str(path)).to_json()
            changed = loading.differences(begun_with, origin.recipe)
            changed += [f"{key} no longer exists" for key in retired_keys.unsupported(head["recipe"])]
            if head["events_sha256"] != origin.events_sha256:
                changed.append("the training events have changed")
            if changed:
                raise RunError(
                    f"{path} is of another training: {'; '.join(changed)}. Resume with what it was begun with "
                    "(the same flags too), or start a new run"
                )
            values = [arrays[f"variable_{at}"] for at in range(len(variables))]
            best = [arrays[f"best_{at}"] for at in range(sum(name.startswith("best_") for name in arrays.files))]
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no checkpoint to resume from; start without --resume") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}); start a new run") from error
    for variable, value in zip(variables, values, strict=True):
        if tuple(variable.shape) != value.shape:
            raise RunError(
                f"{path} is of other towers: a variable has shape {value.shape}, not {tuple(variable.shape)}"
            )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return State(head["epochs"], head["best_epoch"], head["best_value"], best)
