"""The services with another handler, which `bench.serve` compares with the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from rehearsal.pair import PairError, Replica
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from two_tower_client import QueryTowerClient, ann, query_tower
from two_tower_client.ann import Search

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

QUERIES = [{"history": ["p01", "p05"], "age": 30.0}, {}, {"gender": "f"}]


@contextmanager
def running(shop: Shop, folder: Path, service: str, *program: str) -> Iterator[Replica]:
    own = folder / "-".join((service, *program))
    replica = Replica(service, shop.store.root, own, {"drain-delay-s": "0"}, program or ("-m", service))
    try:
        replica.start()
        replica.wait_until_serving()
        yield replica
    finally:
        replica.stop()


def test_the_saved_model_answers_as_the_service_does(shop: Shop, tmp_path: Path) -> None:
    found = []
    for program in ((), ("-m", "bench.serve_variants", "saved_model", "query_tower_service")):
        with (
            running(shop, tmp_path, "query_tower_service", *program) as replica,
            QueryTowerClient(replica.address) as client,
        ):
            found.append(np.array(client.embed(QUERIES).vectors))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("service", ["query_tower_service", "ann_service"])
@pytest.mark.parametrize("program", ["bench.echo", "bench.serve_variants"])
def test_an_echo_answers_with_the_request(shop: Shop, tmp_path: Path, service: str, program: str) -> None:
    variant = ("-m", program, "echo", service) if program == "bench.serve_variants" else ("-m", program)
    searches = [Search(similar_to="p01")]
    request, method = (
        (ann.to_request(searches, "", ""), "/two_tower.ann.v1.AnnService/SearchItems")
        if service == "ann_service"
        else (query_tower.to_request(QUERIES, ""), "/two_tower.query.v1.QueryTowerService/EmbedQueries")
    )
    with running(shop, tmp_path, service, *variant) as replica, grpc.insecure_channel(replica.address) as channel:
        sent = request.SerializeToString(deterministic=True)
        reply = channel.unary_unary(method)(sent, timeout=10)
        assert type(request).FromString(reply) == request


def test_a_service_that_does_not_serve_in_time_shows_the_end_of_its_log(tmp_path: Path) -> None:
    replica = Replica("ann_service", tmp_path / "nothing", tmp_path / "log", {"drain-delay-s": "0"})
    (tmp_path / "nothing").mkdir()
    try:
        replica.start()
        with pytest.raises(PairError, match=r"waited 0 s for ann_service to serve; its log ends with:\n\{.*level"):
            replica.wait_until_serving(timeout_s=0.0)
    finally:
        replica.stop()
