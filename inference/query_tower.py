"""A query tower that answers: encoded features to embeddings. Only this module knows LiteRT."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bundle.event_values import RequestTime
from bundle.features import FeatureSchema

_SIGNATURE = "serve"
_OUTPUT = "embedding"


class QueryTower:
    """One model in memory. `embed` may be called by several threads at once.

    An interpreter serves one call at a time, so there is one for each thread that answers. They wait in a pool and
    are made before the model is swapped in: no first caller pays for them.

    Attributes:
        schema: what a query may carry.
        dimension: length of an embedding.
        interests: embeddings of a query.
        reads_request_time: whether its answer depends on when the request is made.
    """

    def __init__(self, path: Path, schema: FeatureSchema, dimension: int, threads: int, *, interests: int = 1) -> None:
        """Loads the tower.

        Args:
            path: of the LiteRT file, already verified.
            schema: its features; the names are those of the tower's inputs.
            dimension: that its output has to have.
            threads: how many calls may run at once without waiting for a new interpreter.
            interests: embeddings of a query that its output has to have; 1: no such axis.

        Raises:
            ValueError: the file is no tower with these inputs and this output.
            RuntimeError: LiteRT cannot use it.
        """
        self.schema = schema
        self.dimension, self.interests = dimension, interests
        self.reads_request_time = any(isinstance(feature, RequestTime) for feature in schema.features)
        self._path = path
        self._runners = deque(_Runner(path) for _ in range(threads))
        found = self._runners[0].inputs
        empty = schema.encode({}, 1)
        expected = {name: (list(array.shape[1:]), array.dtype.type) for name, array in empty.items()}
        if found != expected:
            raise ValueError(f"the tower takes {found}, the schema gives {expected}")
        outputs = self._runners[0].outputs
        shape = [dimension] if interests == 1 else [interests, dimension]
        if outputs.get(_OUTPUT) != shape:
            raise ValueError(f"the tower returns {outputs} a query, expected {_OUTPUT} of {shape}")

    def embed(self, inputs: Mapping[str, np.ndarray], row_count: int) -> np.ndarray:
        """Returns the embeddings of `row_count` queries: [row_count, dimension] float32, unit length.

        Where a query has several, [row_count, interests, dimension].

        Args:
            inputs: every input of the tower, as `bundle.features.FeatureSchema.encode` makes them.
            row_count: queries, at least 1.
        """
        try:
            runner = self._runners.pop()
        except IndexError:
            runner = _Runner(self._path)
        try:
            return runner.run(inputs, row_count)
        finally:
            self._runners.append(runner)


class _Runner:
    """One interpreter, for one call at a time. It allocates anew only where the batch is of another size than the last.

    Attributes:
        inputs: shape of a row and type of each input.
        outputs: shape of a row of each output.
    """

    def __init__(self, path: Path) -> None:
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
        # The runner of the signature allocates at each call, so it is asked for names and indices alone. It has to be
        # gone before the interpreter is resized.
        signature = self._interpreter.get_signature_runner(_SIGNATURE)
        inputs, outputs = signature.get_input_details(), signature.get_output_details()
        self.inputs = {name: (list(detail["shape"][1:]), detail["dtype"]) for name, detail in inputs.items()}
        self.outputs = {name: list(detail["shape"][1:]) for name, detail in outputs.items()}
        self._input_indices = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._output_index = int(outputs[_OUTPUT]["index"]) if _OUTPUT in outputs else -1
        self._row_count = 0

    def run(self, inputs: Mapping[str, np.ndarray], row_count: int) -> np.ndarray:
        """Returns the embeddings: [row_count, ...] float32, a copy of the interpreter's own."""
        if row_count != self._row_count:
            self._row_count = 0  # should what follows fail
            for name, array in inputs.items():
                self._interpreter.resize_tensor_input(self._input_indices[name], array.shape)
            self._interpreter.allocate_tensors()
            self._row_count = row_count
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._input_indices[name], array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output_index)
