"""Queries with known answers: what a service checks before it says ready."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EMBEDDING_TOLERANCE = 1e-4
"""How far a served embedding may be from the published one, per component: runtimes round differently."""


@dataclass(frozen=True)
class Canaries:
    """Held-out queries, and what the publisher got for them.

    Attributes:
        columns: raw feature values by name, each [n]; as `bundle.features.FeatureSchema.encode` takes them.
        embeddings: [n, dimension] float32, unit length.
        top_items: [n, k] external ids of the exact nearest items, best first.
        top_scores: [n, k] float32, their scores.
    """

    columns: Mapping[str, Sequence[Any]]
    embeddings: np.ndarray
    top_items: Sequence[Sequence[str]]
    top_scores: np.ndarray

    def __len__(self) -> int:
        """How many queries there are."""
        return len(self.embeddings)

    def write(self, path: Path) -> None:
        """Writes them to a new file, as JSON that a person can read and replay."""
        raw = {
            "columns": {name: list(column) for name, column in self.columns.items()},
            "embeddings": self.embeddings.astype(float).tolist(),
            "top_items": [list(items) for items in self.top_items],
            "top_scores": self.top_scores.astype(float).tolist(),
        }
        with path.open("x", encoding="utf-8") as file:
            json.dump(raw, file, ensure_ascii=False)

    @staticmethod
    def read(path: Path) -> Canaries:
        """Returns what `write` wrote.

        Raises:
            ValueError: the file is no such JSON, or its lengths disagree.
        """
        raw = json.loads(path.read_text(encoding="utf-8"))
        try:
            canaries = Canaries(
                raw["columns"],
                np.array(raw["embeddings"], dtype=np.float32),
                raw["top_items"],
                np.array(raw["top_scores"], dtype=np.float32),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path.name} is damaged: {error!r}") from error
        lengths = {len(canaries.embeddings), len(canaries.top_items), len(canaries.top_scores)}
        lengths |= {len(column) for column in canaries.columns.values()}
        if len(lengths) != 1 or canaries.embeddings.ndim != 2:
            raise ValueError(f"{path.name} is damaged: lengths {sorted(lengths)} should be one, and above 0")
        return canaries
