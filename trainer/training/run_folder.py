"""Gives each training a folder of its own, without loading a run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from trainer.errors import RunError
from trainer.training.checkpoints import CHECKPOINT

RUN = "run.json"
"""Name of the file that is written last, so that a folder with this file holds a finished run."""

_LOCK = ".lock"


@contextmanager
def claimed(folder: Path | None, name: str, *, resume: bool) -> Generator[Path]:
    """Keeps a folder for one training, for the length of the context. Other trainings are refused meanwhile.

    Args:
        folder: Folder of the run, made if missing. None: a new folder below ``runs``; it is removed again if the
            training fails before it has written anything.
        name: Name of a new folder; a number is added if it is taken.
        resume: Whether the training continues from a checkpoint in the folder.

    Yields:
        The folder.

    Raises:
        RunError: The folder cannot be written or locked, another training writes to it, it holds a finished run or a
            stopped one, or no checkpoint although `resume` is true.
    """
    if folder is not None:
        check_run_folder(folder, resume=resume)  # makes no folder in vain
    try:
        claimed_folder = _new_folder(Path("runs"), name) if folder is None else folder
        claimed_folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(claimed_folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder or Path('runs') / name}: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases the lock of a process that dies
        except BlockingIOError:
            raise RunError(f"another training writes to {claimed_folder}; name another folder with --run") from None
        except OSError as error:  # a file system without locks
            raise RunError(f"cannot lock {claimed_folder}: {error}; name a folder on another file system") from error
        check_run_folder(claimed_folder, resume=resume)
        yield claimed_folder
    finally:
        os.close(lock)
        if folder is None and os.listdir(claimed_folder) == [_LOCK]:
            (claimed_folder / _LOCK).unlink()
            claimed_folder.rmdir()


def check_run_folder(folder: Path, *, resume: bool) -> None:
    """Checks that a training may write to a folder.

    Args:
        folder: Folder of the run; it may be missing.
        resume: Whether the training continues from a checkpoint in the folder.

    Raises:
        RunError: The folder holds a finished run or a stopped one, or no checkpoint although `resume` is true.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} holds no checkpoint to resume from; start without --resume")
    if not resume and (folder / RUN).exists():
        raise RunError(
            f"{folder} holds a finished run; name another folder with --run, or remove this one; to make a bundle of "
            f"it: python -m trainer publish {folder} --store STORE"
        )
    if not resume and (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} holds a stopped training: go on with --resume, or name another folder with --run")


def _new_folder(parent: Path, name: str) -> Path:
    """Makes a folder that did not exist, and returns it."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")
