"""A table whose content is known by its hash, so that a run notices when the table is written anew meanwhile."""

from __future__ import annotations

from pathlib import Path

from retrieval.bundle.files import sha256_of
from trainer.data.table_files import kind_of, parquet_parts
from trainer.errors import RunError

_Stamps = list[tuple[str, int, int, int, int]]


class HashedTable:
    """A file, or a folder of Parquet files, as it was when it was hashed. Safe for several threads.

    Attributes:
        path: Path of the table.
        digest: SHA-256 of the table; of a folder, those of its files in order.
    """

    def __init__(self, path: Path) -> None:
        """Hashes a table.

        Raises:
            DataError: There is no such table.
            RunError: A file cannot be read.
        """
        self.path = path
        self._stamps = self._stat()  # before the hash: what changes meanwhile is hashed once more in `check`
        self.digest = self._hash()

    def check(self) -> None:
        """Checks that the table has not changed; reads it only if a file was touched.

        Raises:
            DataError: The table is gone.
            RunError: It has another content, or cannot be read.
        """
        now = self._stat()
        if now == self._stamps:
            return
        if self._hash() != self.digest:
            raise RunError(
                f"{self.path} was written anew while the command read it; put the table back as it was and run the "
                "command again, which goes on, or name another folder with --out for lists of the new table"
            )
        self._stamps = now

    def _files(self) -> list[Path]:
        return parquet_parts(self.path) if kind_of(self.path) == "parquet" else [self.path]

    def _hash(self) -> str:
        try:
            return " ".join(f"sha256 {sha256_of(file)}" for file in self._files())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read: {error}") from error

    def _stat(self) -> _Stamps:
        try:
            of_files = [(str(file), file.stat()) for file in self._files()]
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read: {error}") from error
        return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in of_files]
