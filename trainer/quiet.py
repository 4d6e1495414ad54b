"""Imports TensorFlow without its start-up notes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Sends to nowhere what native code writes to stderr meanwhile.

    TensorFlow and LiteRT write a few notes before any log level of theirs applies. Exceptions pass as ever.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow() -> None:
    """Imports it; later imports are quiet by themselves."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").addFilter(_is_worth_reading)
    with quiet_stderr():
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a note is of use: history.rating has another name inside TensorFlow, and its own wherever it is seen."""
    return "is not a valid tf.function parameter name" not in record.getMessage()
