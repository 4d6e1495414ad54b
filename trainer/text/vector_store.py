"""Vectors of texts on disk, by distinct text: what a frozen checkpoint makes of a text is asked of it once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.errors import TextError

_KEY_BYTES = 16


class VectorStore:
    """Texts and their vectors in a folder of one checkpoint; several processes may share it.

    Each `add` is a file of its own, renamed into place: nobody reads half of one, and nothing is rewritten.
    """

    def __init__(self, folder: Path, width: int) -> None:
        """Reads what is there.

        Args:
            folder: of this checkpoint and these settings alone; made where it is missing.
            width: of the vectors.

        Raises:
            TextError: a file there is damaged, or the folder cannot be made.
        """
        self._folder, self._width = folder, width
        self._rows: dict[bytes, int] = {}
        self._vectors = np.zeros((0, width), dtype=np.float32)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            parts = [_read(path, width) for path in sorted(folder.glob("*.npz"))]
        except OSError as error:
            raise TextError(f"the cache of text vectors {folder} cannot be read: {error}") from error
        self._extend([key for keys, _ in parts for key in keys], [vectors for _, vectors in parts])

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the rows of `texts`: [n] int64, -1 for one that is not there."""
        return np.array([self._rows.get(key_of(text), -1) for text in texts], dtype=np.int64)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns [n, width] float32 of rows [n]."""
        return self._vectors[rows]

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keeps vectors [n, width] float32 of `texts` [n], which are distinct and not there yet.

        Raises:
            TextError: the folder cannot be written.
        """
        keys = [key_of(text) for text in texts]
        temporary = self._folder / f".{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                flat = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, _KEY_BYTES)
                np.savez(file, allow_pickle=False, keys=flat, vectors=vectors)
            temporary.rename(self._folder / f"{secrets.token_hex(8)}.npz")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise TextError(f"cannot write to the cache of text vectors {self._folder}: {error}") from error
        self._extend(keys, [vectors])

    def _extend(self, keys: list[bytes], vectors: list[np.ndarray]) -> None:
        first = len(self._vectors)
        self._rows.update({key: row for row, key in enumerate(keys, first)})
        self._vectors = np.concatenate([self._vectors, *vectors])


def key_of(text: str) -> bytes:
    """Returns 16 bytes that tell a text from all others."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _read(path: Path, width: int) -> tuple[list[bytes], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys, vectors = arrays["keys"], arrays["vectors"]
        if keys.shape != (len(vectors), _KEY_BYTES) or vectors.shape[1:] != (width,):
            raise ValueError(f"keys of shape {keys.shape}, vectors of shape {vectors.shape}")
    except (ValueError, KeyError, EOFError) as error:
        raise TextError(f"{path} is damaged ({error}); remove it, and its texts are embedded again") from error
    return [key.tobytes() for key in keys], vectors.astype(np.float32)
