"""Gives freed memory back to the operating system."""

from __future__ import annotations

import contextlib
import ctypes

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


def give_back() -> None:
    """Returns freed memory, for instance after a bundle was opened or dropped. Takes up to some milliseconds.

    glibc keeps freed memory for the next allocation, which may be days away.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
