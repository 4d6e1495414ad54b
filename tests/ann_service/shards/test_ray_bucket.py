"""Shards on Ray whose store is a bucket: three nodes, as processes of this machine with an address and a cache each."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from retrieval.store.location import open_store
from testbed.s3_server import S3Server
from testbed.services import Replica
from testbed.shards.cluster import ray_cluster
from tests.ann_service.shards.searches import BUNDLE, QUERY, VECTORS, by_embedding
from tests.worlds import wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(240)]  # warnings of Ray, about itself

NEAREST = [f"i{row}" for row in np.argsort(-(VECTORS @ QUERY))[:10]]


def shards_in(cache: Path) -> set[str]:
    """Returns the names of the shards of which a cache holds vectors; no other file is that of a catalogue."""
    found = {path for path in cache.rglob("*") if path.is_file()}
    assert not any("query_tower" in str(path) for path in found)
    return {path.parent.name for path in found if path.name == "vectors.npy"}


def test_each_node_fetches_its_own_shards_and_those_of_a_node_that_died(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_bundle(open_store(s3.url), shards=4, **BUNDLE)
    caches = {f"127.0.0.{number}": tmp_path / f"cache-{number}" for number in (3, 4, 5)}
    with ray_cluster(node_count=0, cpus=2) as cluster:
        for address, cache in caches.items():
            monkeypatch.setenv("TWO_TOWER_CACHE", str(cache))
            cluster.add(address)
        monkeypatch.setenv("TWO_TOWER_CACHE", str(tmp_path / "front"))
        flags = {"engine": "ray", "ray-address": cluster.address, "drain-delay-s": "0", "shard-timeout-s": "3"}
        replica = Replica("ann_service", s3.url, tmp_path / "log", flags)
        try:
            replica.start()
            replica.wait_until_serving(120)
            with grpc.insecure_channel(replica.address) as channel:
                stub = ann_grpc.AnnServiceStub(channel)
                request = pb.SearchItemsRequest(searches=[by_embedding()], model_version=manifest.model_version)

                def answer() -> pb.SearchItemsResponse | None:
                    try:
                        return stub.SearchItems(request, timeout=10)
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        return None

                first = wait_for(answer, "all shards answer", 60)
                assert (list(first.results[0].item_ids), first.coverage) == (NEAREST, 1.0)
                held = {address: shards_in(cache) for address, cache in caches.items()}
                assert sorted(name for names in held.values() for name in names) == [f"shard-0{n}" for n in range(4)]
                assert shards_in(tmp_path / "front") == set()

                node = next(address for address, names in held.items() if names)
                cluster.remove(node)
                wait_for(lambda: answer() is None, "the node is missed", 60)
                again = wait_for(answer, "all shards answer again", 120)
                assert (list(again.results[0].item_ids), again.coverage) == (NEAREST, 1.0)
                left = set().union(*(shards_in(cache) for address, cache in caches.items() if address != node))
                assert left == {f"shard-0{n}" for n in range(4)}
        finally:
            replica.stop()
