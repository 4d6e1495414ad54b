"""A query tower that answers: raw feature columns to embeddings. Only this module knows LiteRT."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bundle.features import Columns, FeatureSchema

_SIGNATURE = "serve"
_OUTPUT = "embedding"


class QueryTower:
    """One model in memory. `embed` may be called by several threads at once.

    An interpreter serves one call at a time, so there is one for each thread that answers. They wait in a pool and
    are made before the model is swapped in: no first caller pays for them.

    Attributes:
        schema: what a query may carry.
        dimension: length of an embedding.
    """

    def __init__(self, path: Path, schema: FeatureSchema, dimension: int, threads: int) -> None:
        """Loads the tower.

        Args:
            path: of the LiteRT file, already verified.
            schema: its features; the names are those of the tower's inputs.
            dimension: that its output has to have.
            threads: how many calls may run at once without waiting for a new interpreter.

        Raises:
            ValueError: the file is no tower with these inputs and this output.
            RuntimeError: LiteRT cannot use it.
        """
        self.schema = schema
        self.dimension = dimension
        self._path = path
        self._runners = deque(self._new_runner() for _ in range(threads))
        found = {name: (list(d["shape"][1:]), d["dtype"]) for name, d in self._runners[0].get_input_details().items()}
        empty = schema.encode({}, 1)
        expected = {name: (list(array.shape[1:]), array.dtype.type) for name, array in empty.items()}
        if found != expected:
            raise ValueError(f"the tower takes {found}, the schema gives {expected}")
        outputs = self._runners[0].get_output_details()
        if _OUTPUT not in outputs or list(outputs[_OUTPUT]["shape"][1:]) != [dimension]:
            raise ValueError(f"the tower returns {sorted(outputs)}, expected {_OUTPUT} of [batch, {dimension}]")

    def embed(self, columns: Columns, row_count: int) -> np.ndarray:
        """Returns the embeddings of `row_count` queries: [row_count, dimension] float32, unit length.

        Args:
            columns: raw values, as of `bundle.features.FeatureSchema.encode`, already validated.
            row_count: queries, at least 1.
        """
        inputs = self.schema.encode(columns, row_count)
        try:
            runner = self._runners.pop()
        except IndexError:
            runner = self._new_runner()
        try:
            # A copy: the interpreter's own buffer is overwritten by the next call.
            return np.array(runner(**inputs)[_OUTPUT], dtype=np.float32)  # [row_count, dimension]
        finally:
            self._runners.append(runner)

    def _new_runner(self) -> Any:
        return Interpreter(model_path=str(self._path), num_threads=1).get_signature_runner(_SIGNATURE)
