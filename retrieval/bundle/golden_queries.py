"""Golden queries: held-out queries with expected results, which a service checks before it serves a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EMBEDDING_TOLERANCE = 1e-4
"""Largest difference of a component between a deployed and a published embedding; runtimes round differently."""


@dataclass(frozen=True)
class GoldenQueries:
    """Held-out queries, with the embeddings and the exact nearest items that the publisher computed for them.

    Attributes:
        columns: Raw values by feature name, each [n], as `retrieval.bundle.features.schema.FeatureSchema.encode` takes
            them.
        embeddings: [n, dimension] float32, unit length.
        top_items: [n, k] external ids of the exact nearest items, best first.
        top_scores: [n, k] float32, scores of `top_items`.
    """

    columns: Mapping[str, Sequence[Any]]
    embeddings: np.ndarray
    top_items: Sequence[Sequence[str]]
    top_scores: np.ndarray

    def __len__(self) -> int:
        """Returns the number of queries."""
        return len(self.embeddings)

    def write(self, path: Path) -> None:
        """Writes the golden queries to a new file, as JSON that a person can read and replay."""
        raw = {
            "columns": {name: list(column) for name, column in self.columns.items()},
            "embeddings": self.embeddings.astype(float).tolist(),
            "top_items": [list(items) for items in self.top_items],
            "top_scores": self.top_scores.astype(float).tolist(),
        }
        with path.open("x", encoding="utf-8") as file:
            json.dump(raw, file, ensure_ascii=False)

    @staticmethod
    def read(path: Path) -> GoldenQueries:
        """Returns the golden queries of a file that `write` wrote.

        Raises:
            ValueError: the file is not JSON of this form, or its arrays differ in length.
        """
        raw = json.loads(path.read_text(encoding="utf-8"))
        try:
            golden_queries = GoldenQueries(
                raw["columns"],
                np.array(raw["embeddings"], dtype=np.float32),
                raw["top_items"],
                np.array(raw["top_scores"], dtype=np.float32),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path.name} is damaged: {error!r}") from error
        lengths = {len(golden_queries.embeddings), len(golden_queries.top_items), len(golden_queries.top_scores)}
        lengths |= {len(column) for column in golden_queries.columns.values()}
        if len(lengths) != 1 or golden_queries.embeddings.ndim != 2:
            raise ValueError(f"{path.name} is damaged: lengths {sorted(lengths)} should be one, and above 0")
        return golden_queries
