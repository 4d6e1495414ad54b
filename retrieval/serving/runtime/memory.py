"""Gives freed memory back to the operating system."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_LARGE_BYTES = 16 << 20
_M_ARENA_MAX = -8


def limit_arenas(count: int = 2) -> None:
    """Lets all threads of this process allocate from a few arenas of glibc. To be called before threads start.

    Each load of a bundle is done by a thread of its own. With an arena of its own too, each would leave memory that the
    next one cannot use.

    Args:
        count: number of arenas.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, count)


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

    def trim(self) -> None:
        """Gives memory back, for instance after a bundle was opened or dropped. Takes up to some milliseconds."""
        if self._trim is not None:
            self._trim(0)

    def trim_if_due(self) -> None:
        """Gives memory back if large calls have ended since the last time. Takes up to some milliseconds."""
        if self._handled_bytes >= _LARGE_BYTES and self._trim is not None:
            self._handled_bytes = 0
            self._trim(0)
