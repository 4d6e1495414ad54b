"""The echo that `benchmarks.services.calls` compares the services with."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from testbed.services import Replica
from two_tower_client import Search, ann, query_tower


@pytest.mark.parametrize("service", ["query_tower_service", "ann_service"])
def test_answers_with_the_request(tmp_path: Path, service: str) -> None:
    request, method = (
        (ann.to_request([Search(similar_to="p01")], "", ""), "/two_tower.ann.v1.AnnService/SearchItems")
        if service == "ann_service"
        else (
            query_tower.to_request([{"history": ["p01", "p05"], "age": 30.0}, {}], ""),
            "/two_tower.query.v1.QueryTowerService/EmbedQueries",
        )
    )
    replica = Replica(service, tmp_path / "store", tmp_path / "log", program=("-m", "benchmarks.services.echo"))
    try:
        replica.start()
        replica.wait_until_serving()
        with grpc.insecure_channel(replica.address) as channel:
            sent = request.SerializeToString(deterministic=True)
            reply = channel.unary_unary(method)(sent, timeout=10)
        assert type(request).FromString(reply) == request
    finally:
        replica.stop()
