"""Checks whether a training may write to a folder, without loading a run."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import RunError
from trainer.training.checkpoints import CHECKPOINT

RUN = "run.json"
"""Name of the file that is written last, so that a folder with this file holds a finished run."""


def check_run_folder(folder: Path, *, resume: bool) -> None:
    """Checks that a training may write to a folder.

    Args:
        folder: Folder of the run; it may be missing.
        resume: Whether the training continues from a checkpoint in the folder.

    Raises:
        RunError: The folder holds a finished run, or no checkpoint although `resume` is true.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} holds no checkpoint to resume from; start without --resume")
    if not resume and (folder / RUN).exists():
        raise RunError(
            f"{folder} holds a finished run; name another folder with --run, or remove this one; to make a bundle of "
            f"it: python -m trainer publish {folder} --store STORE"
        )
