"""A deployed query tower: raw features to embeddings.

```
columns ─► FeatureSchema.encode ─► TextEncoders.encode ─► query_tower.tflite ─► [batch, dim] float32, unit length
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.bundle.features.event_kinds import RequestTime
from retrieval.bundle.features.schema import Columns, FeatureSchema, encode_inputs
from retrieval.bundle.features.text import Text, TextEncoders
from retrieval.bundle.layout import EMBEDDING
from retrieval.inference.interpreter_pool import InterpreterPool


class QueryTower:
    """A query tower in memory. `embed` may be called by several threads at once.

    Attributes:
        schema: Features that a query may have.
        dimension: Length of an embedding.
        reads_request_time: Whether an embedding depends on the time of the request.
        reads_text: Whether a text encoder computes a part of the inputs, which takes many times as long as the tower.
    """

    def __init__(
        self, path: Path, schema: FeatureSchema, text_encoders: TextEncoders, dimension: int, thread_count: int = 1
    ) -> None:
        """Loads the tower.

        Args:
            path: LiteRT file, already verified.
            schema: features of the queries; the tower has one input for each, with the name of the feature.
            text_encoders: text encoders that the schema needs.
            dimension: expected length of an embedding.
            thread_count: number of calls that may run at once without loading a further interpreter.

        Raises:
            ValueError: the file is not a tower with these inputs and this output.
            RuntimeError: LiteRT cannot use the file.
        """
        self.schema, self.dimension = schema, dimension
        self.reads_request_time = any(isinstance(feature, RequestTime) for feature in schema.features)
        self.reads_text = any(isinstance(feature, Text) for feature in schema.features)
        self._text_encoders = text_encoders
        self._interpreters = InterpreterPool(path, thread_count)
        row = encode_inputs(schema, text_encoders, {}, 1)
        expected = {name: (list(array.shape[1:]), array.dtype.type) for name, array in row.items()}
        if self._interpreters.inputs != expected:
            raise ValueError(f"the tower takes {self._interpreters.inputs}, the schema gives {expected}")
        outputs = self._interpreters.outputs
        if outputs.get(EMBEDDING) != [dimension]:
            raise ValueError(f"the tower returns {outputs} for each query, expected {EMBEDDING} of {[dimension]}")

    def embed(self, columns: Columns, row_count: int) -> np.ndarray:
        """Returns the embeddings of `row_count` queries: [row_count, dimension] float32, unit length.

        Args:
            columns: raw values by feature name, as `retrieval.bundle.features.schema.FeatureSchema.encode` takes them.
            row_count: number of queries, at least 1.

        Raises:
            KeyError: the schema has no feature of a column's name.
        """
        return self.embed_and_count(columns, row_count)[0]

    def embed_and_count(self, columns: Columns, row_count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns what `embed` returns, and how many values of each query are in no vocabulary of the tower.

        The numbers are [row_count] int64; None if all values are known.
        """
        inputs = encode_inputs(self.schema, self._text_encoders, columns, row_count)
        return self._interpreters.run(inputs), self.schema.count_unknown(inputs)
