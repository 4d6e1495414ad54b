"""Fetches a file from a bucket: in parts, several at once, going on where an earlier try ended."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from retrieval.bundle.errors import StoreError
from retrieval.store.bucket import Bucket
from retrieval.store.cache import done_of, part_of

_PART_BYTES = 8 << 20
"""Size of a part. A try that fails loses at most the parts under way."""

_LOOK_S = 0.2
"""Longest wait in seconds after which Ctrl-C is noticed, which ends no wait where polars is imported."""

PARTS_AT_ONCE = 4
"""Number of parts that are asked for at the same time, which bounds the memory too."""


def fetch(
    bucket: Bucket, key: str, size: int, path: Path, pool: ThreadPoolExecutor, progress: Callable[[int], None]
) -> None:
    """Fetches an object to a file, which appears under its name when it is complete.

    The file's `retrieval.store.cache.part_of` has its final size already.

    Args:
        bucket: bucket of the object.
        key: key of the object.
        size: size of the object in bytes.
        path: file to write.
        pool: threads that ask for the parts.
        progress: called with the number of bytes of each part once it is written, and of what an earlier try fetched.

    Raises:
        StoreError: a part cannot be fetched, or the disk cannot be written; the parts before it stay for the next try.
    """
    done = _read_done(done_of(path), size)
    progress(done)
    starts = iter(range(done, size, _PART_BYTES))
    running: deque[tuple[int, Future[memoryview]]] = deque()

    def ask() -> None:
        start = next(starts, None)
        if start is not None:
            running.append((start, pool.submit(bucket.read_part, key, start, min(start + _PART_BYTES, size))))

    try:
        for _ in range(PARTS_AT_ONCE):
            ask()
        with part_of(path).open("r+b") as file:
            while running:
                start, future = running.popleft()
                while not wait([future], _LOOK_S).done:
                    pass
                part = future.result()
                ask()
                file.seek(start)
                file.write(part)
                file.flush()
                done_of(path).write_text(f"{start + len(part)}\n", encoding="ascii")
                progress(len(part))
        os.replace(part_of(path), path)
        done_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    finally:
        for _, future in running:
            future.cancel()


def _read_done(path: Path, size: int) -> int:
    """Returns the number of bytes that an earlier try has fetched; 0 if that is not known."""
    try:
        done = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return done if 0 <= done <= size else 0
