"""Gives freed memory back to the operating system."""

from __future__ import annotations

import ctypes
import gc
import sys

_LARGE_BYTES = 16 << 20


class MemoryTrimmer:
    """Returns memory that large calls and swaps have freed.

    glibc keeps freed memory for the next allocation. After calls of some megabytes each, that would be hundreds of
    megabytes which no call needs.
    """

    def __init__(self) -> None:
        """Looks for glibc; without it, nothing is trimmed."""
        self._handled_bytes = 0
        try:
            self._trim = ctypes.CDLL("libc.so.6").malloc_trim if sys.platform == "linux" else None
        except (OSError, AttributeError):  # another C library
            self._trim = None

    def note(self, size_bytes: int) -> None:
        """Takes note that a call with a request or response of this size has ended."""
        self._handled_bytes += size_bytes

    def note_swap(self) -> None:
        """Takes note that a bundle was opened or dropped."""
        self._handled_bytes += _LARGE_BYTES

    def trim_if_due(self) -> None:
        """Gives memory back if large calls or swaps have ended since the last time. Takes up to some milliseconds."""
        if self._handled_bytes >= _LARGE_BYTES and self._trim is not None:
            self._handled_bytes = 0
            gc.collect()
            self._trim(0)
