"""Checks of the folder of a run, without loading the run."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import RunError
from trainer.training.checkpoints import CHECKPOINT

RUN = "run.json"
"""File that is written after the towers, so that a folder with it holds a finished run."""


def check_run_folder(folder: Path, *, resume: bool) -> None:
    """Checks that a training may write to a folder, which may be missing.

    Raises:
        RunError: The folder holds no checkpoint to resume from, or holds a finished run.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} holds no checkpoint to resume from; start without --resume")
    if not resume and (folder / RUN).exists():
        raise RunError(
            f"{folder} holds a finished run; name another folder with --run, or remove this one; to make a bundle of "
            f"it: python -m trainer publish {folder} --store STORE"
        )
