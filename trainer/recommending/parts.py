"""The parts of a result: Parquet files in a folder, which a stopped run leaves behind and a later run goes on with.

```
lists.parquet.partial/run.json          what the lists are made of, so that no other run adds to them
lists.parquet.partial/parts/part-….parquet   each whole or absent
lists.parquet.partial/sums/part-….parquet.sha256   the SHA-256 of each part, written before it
lists.parquet/part-….parquet            the result: the folder of parts, renamed when it is complete
```
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from retrieval.bundle.files import fsync, replace_text, sha256_of
from trainer.errors import RunError

_RUN, _PARTS, _SUMS, _LOCK = "run.json", "parts", "sums", ".lock"
_NAME = re.compile(r"part-([0-9]{5,})\.parquet")
_METADATA = "two_tower"
"""Key of the metadata of a part; its value is a JSON object."""


class Parts:
    """The parts that a run writes. Threads may write different parts at once.

    Attributes:
        identity: What the lists are made of.
        there: Names of the parts that a stopped run has left, by number.
        done: Numbers of those that `check` has found whole.
    """

    def __init__(self, out: Path, partial: Path, identity: Mapping[str, Any]) -> None:
        """Takes the folder of the result, the folder of the unfinished parts, and what the lists are made of."""
        self.identity = identity
        self._out, self._partial, self._folder = out, partial, partial / _PARTS
        found = (_NAME.fullmatch(path.name) for path in sorted(self._folder.iterdir()))
        self.there = {int(match[1]): match[0] for match in found if match is not None}
        self.done: set[int] = set()

    def check(self, advance: Callable[[int], None]) -> list[str]:
        """Reads the parts that are there; removes those that are not as they were written, and returns their names.

        Args:
            advance: Receives the number of parts that were read since its last call.

        Raises:
            RunError: A damaged part cannot be removed.
        """
        damaged: list[str] = []
        for number, name in self.there.items():
            path = self._path(number)
            try:
                is_whole = sha256_of(path) == self._sum_path(number).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):  # an unreadable one, or one without a sum
                is_whole = False
            if is_whole:
                self.done.add(number)
            else:
                damaged.append(name)
                try:
                    path.unlink()
                except OSError as error:
                    raise RunError(f"{path} is damaged and cannot be removed: {error}; remove it") from error
            advance(1)
        return damaged

    def write(self, number: int, frame: pl.DataFrame, counts: Mapping[str, int]) -> None:
        """Writes a part, atomically.

        Args:
            number: Number of the part, from 0.
            frame: Rows of the part.
            counts: Counts of the part, which `counts` adds up.

        Raises:
            RunError: The part cannot be written, as when the disk is full.
        """
        path = self._path(number)
        temporary = path.with_suffix(".tmp")
        told = json.dumps({**self.identity, "part": number, "counts": counts})
        try:
            frame.write_parquet(temporary, compression="zstd", compression_level=1, metadata={_METADATA: told})
            fsync(temporary)
            self._sum_path(number).parent.mkdir(exist_ok=True)
            replace_text(self._sum_path(number), sha256_of(temporary) + "\n")
            temporary.rename(path)
            fsync(path.parent)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunError(
                f"cannot write {path}: {error}; make room, and run the command again: it goes on where it stopped"
            ) from error

    def counts(self, part_count: int) -> dict[str, int]:
        """Returns the sums of the counts of all parts, by name.

        Raises:
            RunError: A part is missing or damaged.
        """
        total: dict[str, int] = {}
        for number in range(part_count):
            path = self._path(number)
            try:
                told = json.loads(pl.read_parquet_metadata(path)[_METADATA])["counts"]
            except (OSError, KeyError, ValueError, pl.exceptions.PolarsError) as error:
                raise RunError(
                    f"{path} is missing or damaged ({error}); remove it, and run the command again"
                ) from error
            total = {name: total.get(name, 0) + count for name, count in told.items()}
        return total

    def finish(self) -> None:
        """Makes the folder of parts the result.

        Raises:
            RunError: The folder cannot be renamed.
        """
        try:
            self._folder.rename(self._out)
            fsync(self._out.parent)
            shutil.rmtree(self._partial)
        except OSError as error:
            raise RunError(f"cannot rename {self._folder} to {self._out}: {error}") from error

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:05}.parquet"

    def _sum_path(self, number: int) -> Path:
        return self._partial / _SUMS / f"{self._path(number).name}.sha256"


def check_out(out: Path) -> None:
    """Checks that a result can be written under a name.

    Args:
        out: Folder of the result.

    Raises:
        RunError: It names no new folder, or there is something of that name.
    """
    if out.name in ("", ".."):
        raise RunError(f"--out is {str(out)!r}, which names no new folder; name one, such as lists.parquet")
    if out.is_symlink() and not out.exists():
        raise RunError(f"{out} is a link to nothing; remove it, or name another folder with --out")
    if os.path.lexists(out):
        raise RunError(f"{out} exists; remove it, or name another folder with --out")


@contextmanager
def claimed_parts(out: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any]) -> Generator[Parts]:
    """Keeps the folder of unfinished parts for one run, for the length of the context.

    Args:
        out: Folder of the result, which must not exist.
        identity: What the lists are made of; parts of a stopped run are kept if theirs is the same. A folder that
            holds no whole part is begun anew, whatever it was for.
        defaults: Values to add to the identity of a new run; a run that goes on takes over those of the stopped one.

    Raises:
        RunError: There is a result, `out` names no new folder, another run writes to the folder, or a stopped run made
            other lists.
    """
    check_out(out)
    partial = out.with_name(f"{out.name}.partial")
    try:
        (partial / _PARTS).mkdir(parents=True, exist_ok=True)
        lock = os.open(partial / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunError(f"cannot make the folder {partial}: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases the lock of a process that dies
        except BlockingIOError:
            raise RunError(f"another run writes to {partial}; name another folder with --out") from None
        except OSError as error:  # a file system without locks
            raise RunError(f"cannot lock {partial}: {error}; name a folder on another file system") from error
        if not any((partial / _PARTS).glob("part-*.parquet")):  # as after a wrong cell
            _clear(partial)
        yield Parts(out, partial, _agree(partial, identity, defaults))
    finally:
        os.close(lock)


def _clear(partial: Path) -> None:
    """Removes what a run without a whole part has left. Raises RunError if that is not possible."""
    try:
        (partial / _RUN).unlink(missing_ok=True)
        for unfinished in (partial / _PARTS).iterdir():
            unfinished.unlink()
    except OSError as error:
        raise RunError(f"cannot empty {partial}: {error}; remove it") from error


def _agree(partial: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what the lists are made of, after checking that a stopped run was of the same.

    Raises:
        RunError: It was not; the message names the differences.
    """
    path = partial / _RUN
    if not path.exists():
        whole = {**defaults, **identity}
        try:
            replace_text(path, json.dumps(whole, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {path}: {error}") from error
        return whole
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {stored.get(name)} and is {now}" for name, now in identity.items() if stored.get(name) != now
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove {partial} to begin anew") from error
    if changed:
        raise RunError(
            f"{partial} holds parts of other lists: {'; '.join(changed)}. Run the command with what was, or remove the "
            "folder to begin anew"
        )
    return stored
