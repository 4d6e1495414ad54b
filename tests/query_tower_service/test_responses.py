"""Building EmbedQueriesResponse."""

from __future__ import annotations

import numpy as np

from query_tower_service.responses import add
from two_tower.query.v1 import query_tower_service_pb2 as pb


def _response(embeddings: np.ndarray) -> pb.EmbedQueriesResponse:
    response = pb.EmbedQueriesResponse(model_version="m1")
    add(response, embeddings, None)
    return response


def test_a_response_has_the_embeddings_in_order_and_the_model() -> None:
    embeddings = np.array([[0.5, -0.25, 1.0], [2.0, 0.0, -8.0]], dtype=np.float32)
    expected = pb.EmbedQueriesResponse(
        embeddings=[pb.Embedding(values=[0.5, -0.25, 1.0]), pb.Embedding(values=[2.0, 0.0, -8.0])], model_version="m1"
    )
    assert _response(embeddings) == expected
    # The same values in column-major memory order.
    assert _response(np.asfortranarray(embeddings)) == expected
