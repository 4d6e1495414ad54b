"""Checkpoints of a training, from which it can be resumed after a stop, with the same result as without the stop.

A checkpoint is one ``.npz`` file of plain arrays: the variables of model and optimizer (including the seeds of dropout
and sampling) in their order, the best variables so far, and the measurements. A new checkpoint replaces the previous
one by an atomic rename.
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
    """Recipe and data of a training. A checkpoint can only be resumed with the same recipe and data.

    Attributes:
        recipe: Resolved recipe as plain values, as `trainer.recipe.recipe.Recipe.to_json` returns it.
        events_sha256: SHA-256 of the training events, as hexadecimal digits.
    """

    recipe: dict[str, Any]
    events_sha256: str


@dataclass
class State:
    """State of a training between epochs.

    Attributes:
        epochs: Measurements of the finished epochs, oldest first, see `trainer.training.fit.fit`.
        best_epoch: Number of the best epoch, from 1; 0 before the first epoch.
        best_value: Value of `Training.metric` in the best epoch.
        best: Values of the variables of the towers after the best epoch; empty without early stopping.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = float("-inf")
    best: list[np.ndarray] = field(default_factory=list)


def write(folder: Path, origin: Origin, state: State, variables: Sequence[Any]) -> None:
    """Writes the checkpoint of a run.

    Args:
        folder: Folder of the run, which exists.
        origin: Recipe and data of the training; `read` refuses a checkpoint of another origin.
        state: State of the training.
        variables: Variables of model and optimizer, in the order in which `read` receives them.

    Raises:
        RunError: The checkpoint cannot be written; the previous one is kept.
    """
    head = {
        "recipe": origin.recipe,
        "events_sha256": origin.events_sha256,
        "epochs": state.epochs,
        "best_epoch": state.best_epoch,
        "best_value": state.best_value,
    }
    arrays = {f"variable_{index}": np.asarray(variable) for index, variable in enumerate(variables)}
    arrays |= {f"best_{index}": value for index, value in enumerate(state.best)}
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
    """Reads the checkpoint of a run into variables, and returns the state of the training.

    Args:
        folder: Folder of the run.
        origin: Recipe and data of the training.
        variables: Variables of model and optimizer, which are set to the values in the checkpoint.

    Raises:
        RunError: There is no checkpoint, it is damaged, or it is of another recipe or other data.
    """
    path = folder / CHECKPOINT
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes().decode())
            # Parsed, so that keys that are newer than the checkpoint have their defaults.
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
            values = [arrays[f"variable_{index}"] for index in range(len(variables))]
            best = [arrays[f"best_{index}"] for index in range(sum(name.startswith("best_") for name in arrays.files))]
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
