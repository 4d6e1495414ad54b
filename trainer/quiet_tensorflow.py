"""Imports TensorFlow without its start-up notes, and keeps the memory that it frees in the process."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MIB = 1 << 20
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
_MALLOC_OPTIONS = {_M_TRIM_THRESHOLD: 512 * _MIB, _M_TOP_PAD: 64 * _MIB, _M_MMAP_THRESHOLD: 32 * _MIB}


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards everything that is written to stderr inside the context, by native code too. Exceptions are not caught.

    TensorFlow and LiteRT write a few notes before their log levels apply.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras; later imports of them print nothing."""
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").addFilter(_is_worth_reading)
    with quiet_stderr():
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401


def _keep_freed_memory() -> None:
    """Lets glibc keep freed memory instead of returning it to the system; does nothing with other C libraries.

    A training step allocates and frees the same large tensors each time. By default glibc returns them, and the system
    clears every page anew: 1.9 million page faults per epoch of MovieLens-100k. Without the page faults an epoch takes
    8.5 s of CPU instead of 15.4 s (medians of four, on a busy machine), and the process takes 95 MB more memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in _MALLOC_OPTIONS.items():
            mallopt(parameter, size)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Returns whether a log record is useful; the warning that inputs such as history.rating are renamed is not."""
    return "is not a valid tf.function parameter name" not in record.getMessage()
