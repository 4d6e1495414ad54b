"""Interface through which long tasks report their progress. The command line implements it; nothing else prints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol


class TrainingProgress(Protocol):
    """Receives the progress of one training. A subclass overrides the methods that it needs; the others do nothing."""

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Reports the start of the training.

        Args:
            epochs: Largest number of epochs.
            steps: Number of steps in an epoch.
            done: Number of finished epochs; above 0 only in a resumed training.
        """

    def step(self, loss: float) -> None:
        """Reports a finished step and its loss."""

    def epoch(self, measured: Mapping[str, Any]) -> None:
        """Reports a finished epoch and its measurements; `trainer.training.fit.fit` lists their names."""


class Progress(Protocol):
    """Shows progress to the person who runs the trainer. Not thread-safe; contexts may be nested."""

    def note(self, text: str) -> None:
        """Reports the sentence `text`."""
        ...

    def working(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Reports work of unknown length until the context ends.

        The context yields a function to call with the name of each step.
        """
        ...

    def counting(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Reports work on `total` pieces until the context ends.

        The context yields a function to call with the number of pieces finished since the last call.
        """
        ...

    def training(self, title: str) -> AbstractContextManager[TrainingProgress]:
        """Reports a training until the context ends.

        The context yields the progress receiver to pass to `trainer.training.fit.fit`.
        """
        ...


class SilentTraining(TrainingProgress):
    """A `TrainingProgress` that reports nothing."""


class Silent(Progress):
    """A `Progress` that reports nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def working(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Returns a context that reports nothing."""
        return contextlib.nullcontext(lambda step: None)

    def counting(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a context that reports nothing."""
        return contextlib.nullcontext(lambda more: None)

    def training(self, title: str) -> AbstractContextManager[TrainingProgress]:
        """Returns a context that reports nothing."""
        return contextlib.nullcontext(SilentTraining())


SILENT: Progress = Silent()
"""Progress that reports nothing, the default of functions that take a `Progress`."""


def format_validation(metrics: Mapping[str, float]) -> str:
    """Returns the metrics of the validation part that are shown after an epoch, such as ``ndcg@10 0.1234``."""
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in ("ndcg@10", "recall@100") if name in metrics)
