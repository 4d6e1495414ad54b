"""The services with another handler, which `bench.serve` compares with the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rehearsal.pair import PairError, Replica
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from two_tower_client import AnnClient, QueryTowerClient, ServerError
from two_tower_client.ann import Search

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

QUERIES = [{"history": ["p01", "p05"], "age": 30.0}, {}, {"gender": "f"}]


@contextmanager
def running(shop: Shop, folder: Path, service: str, *variant: str) -> Iterator[Replica]:
    program = ("-m", "bench.serve_variants", *variant, service) if variant else ("-m", service)
    replica = Replica(service, shop.store.root, folder / "-".join((service, *variant)), {"drain-delay-s": "0"}, program)
    try:
        replica.start()
        replica.wait_until_serving()
        yield replica
    finally:
        replica.stop()


def test_the_saved_model_answers_as_the_service_does(shop: Shop, tmp_path: Path) -> None:
    found = []
    for variant in ((), ("saved_model",)):
        with (
            running(shop, tmp_path, "query_tower_service", *variant) as replica,
            QueryTowerClient(replica.address) as client,
        ):
            found.append(np.array(client.embed(QUERIES).vectors))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("service", ["query_tower_service", "ann_service"])
def test_the_empty_call_answers_with_nothing(shop: Shop, tmp_path: Path, service: str) -> None:
    with running(shop, tmp_path, service, "echo") as replica:
        if service == "ann_service":
            with AnnClient(replica.address) as client, pytest.raises(ServerError, match="1 searches with 0 results"):
                client.search([Search(similar_to="p01")])
            return
        with QueryTowerClient(replica.address) as client, pytest.raises(ServerError, match="with 0 embeddings"):
            client.embed(QUERIES)


def test_a_service_that_does_not_serve_in_time_shows_the_end_of_its_log(tmp_path: Path) -> None:
    replica = Replica("ann_service", tmp_path / "nothing", tmp_path / "log", {"drain-delay-s": "0"})
    (tmp_path / "nothing").mkdir()
    try:
        replica.start()
        with pytest.raises(PairError, match=r"waited 0 s for ann_service to serve; its log ends with:\n\{.*level"):
            replica.wait_until_serving(timeout_s=0.0)
    finally:
        replica.stop()
