"""Cache of text vectors on disk, so that a frozen checkpoint embeds each distinct text once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.errors import TextError

_KEY_BYTES = 16


class VectorStore:
    """Vectors of distinct texts in a folder of one checkpoint. Several processes may share the folder.

    Each `add` writes a new file and renames it into place, so that no process reads an incomplete file.
    """

    def __init__(self, folder: Path, width: int) -> None:
        """Reads the vectors in the folder.

        Args:
            folder: Folder for one checkpoint and its settings; created if it is missing.
            width: Length of the vectors.

        Raises:
            TextError: A file in the folder is damaged, or the folder cannot be created.
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
        """Returns the row of each text: [n] int64, -1 for a text that is not in the store."""
        return np.array([self._rows.get(key_of(text), -1) for text in texts], dtype=np.int64)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns the vectors of rows [n]: [n, width] float32."""
        return self._vectors[rows]

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Adds the vectors [n, width] float32 of `texts` [n], which are distinct and not yet in the store.

        Raises:
            TextError: The folder cannot be written.
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
    """Returns the key of a text: a hash of 16 bytes."""
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
