"""What `train` does if TF_CONFIG lists several workers: all compute, and worker 0, the chief, does everything else."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data import sources
from trainer.errors import TrainingError
from trainer.progress import Progress, Silent
from trainer.quiet_tensorflow import import_tensorflow, quiet_stderr
from trainer.recipe.recipe import Recipe
from trainer.training.cluster import check_wait, read_cluster

if TYPE_CHECKING:  # imports tensorflow
    from trainer.training.workers import Workers


_joined: list[Workers] = []
"""Workers that this process has joined, one at most."""


def join_workers(wait_s: float, progress: Progress) -> Workers | None:
    """Connects this process with the other workers of TF_CONFIG, and reports which one it is.

    Args:
        wait_s: Longest time in seconds to wait for the others to begin.
        progress: Receives a note.

    Returns:
        The workers; None if this process trains alone.

    Raises:
        RunError: TF_CONFIG cannot be understood, `wait_s` is no time to wait, or another worker does not come.
    """
    check_wait(wait_s)
    cluster = read_cluster()
    if cluster is None:
        return None
    does = "trains, evaluates and publishes" if cluster.is_chief else f"computes for {cluster.name(0)}, which reports"
    progress.note(f"{cluster.name(cluster.index)} of {len(cluster.addresses)} {does}")
    import_tensorflow()
    from trainer.training.workers import join

    with quiet_stderr():
        workers = join(cluster, wait_s)
    _joined.append(workers)
    return workers


def compute_for_chief(workers: Workers, recipe: Recipe, folder: Path) -> None:
    """Takes part in a training as a worker that is not the chief, until the chief has finished its command.

    Args:
        workers: Processes that train together.
        recipe: Training configuration.
        folder: Folder that the recipe's paths are relative to.

    Raises:
        TrainerError: The training failed, or another worker is lost.
    """
    # There is nothing to keep here, and Python would not notice Ctrl-C while it waits for the chief.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    data = sources.read(recipe, folder)
    from trainer.evaluation.held_out_check import check_held_out
    from trainer.training.fit_and_refit import fit_and_choose

    check_held_out(recipe, data)
    fit_and_choose(recipe, folder, data, None, resume=False, progress=Silent(), workers=workers)
    with workers.naming_lost_workers():
        workers.finish()


def dismiss_workers(workers: Workers | None, progress: Progress) -> None:
    """Lets the other workers end with success, as the chief has finished its command.

    Args:
        workers: Processes that trained together; None if there was one.
        progress: Receives a note if a worker is lost, which harms nothing any more.
    """
    if workers is None:
        return
    try:
        with workers.naming_lost_workers():
            workers.finish()
    except TrainingError as error:
        progress.note(f"after the training: {error}")


def leave_workers(code: int | str | None) -> None:
    """Ends the process at once if it has joined other workers; else it does nothing.

    TensorFlow would wait for the other workers when Python ends, some minutes if one of them is lost.

    Args:
        code: Exit code, as `SystemExit.code` has it.
    """
    if not _joined:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # also if they cannot be written, which has been reported then
        os._exit(code if isinstance(code, int) else int(code is not None))
