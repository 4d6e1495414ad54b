"""Embeddings on the wire."""

from __future__ import annotations

import numpy as np
import pytest

from query_tower_service.servicer import to_response
from two_tower.query.v1 import query_tower_service_pb2 as pb


@pytest.mark.parametrize(("batch", "dimension"), [(1, 1), (1, 64), (3, 8), (2, 31), (2, 32), (2, 4096)])
def test_a_response_is_what_protobuf_makes_of_the_same_floats(batch: int, dimension: int) -> None:
    # 31 and 32 floats: where the length before them takes a second byte.
    embeddings = np.arange(batch * dimension, dtype=np.float32).reshape(batch, dimension) - 2.5
    expected = pb.EmbedQueriesResponse(model_version="m1")
    for row in range(batch):
        expected.embeddings.add(values=[float(value) for value in embeddings[row]])
    assert pb.EmbedQueriesResponse.FromString(to_response(embeddings, "m1")) == expected
    assert to_response(np.asfortranarray(embeddings), "m1") == to_response(embeddings, "m1")


def test_a_response_parses_from_the_wire() -> None:
    raw = to_response(np.array([[0.6, -0.8]], dtype=np.float32), "m1")
    (embedding,) = pb.EmbedQueriesResponse.FromString(raw).embeddings
    assert [round(value, 6) for value in embedding.values] == [0.6, -0.8]
