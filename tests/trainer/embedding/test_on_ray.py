"""Embedding on a Ray cluster: three nodes, as processes of this machine with an address each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.store.bucket import Bucket
from testbed.s3_server import NoServer, S3Server
from testbed.shards.cluster import Cluster, ray_cluster
from tests.trainer.embedding.catalogue import SLICES, arguments, embed, parts, start, write_items
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from tests.worlds import wait_for

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.filterwarnings(KERAS_AND_NUMPY),
    pytest.mark.filterwarnings("default"),  # warnings of Ray, about itself
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    """An S3 server, to which the environment of this process and of the cluster leads; None if there can be none."""
    try:
        server = S3Server(tmp_path_factory.mktemp("s3"))
    except NoServer:
        yield None
        return
    with server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def cluster(s3: S3Server | None) -> Iterator[Cluster]:
    with ray_cluster(cpus=1) as running:
        yield running


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("table") / "items")


@pytest.fixture(scope="module")
def local(shop: Shop, items: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine makes of the table, without Ray."""
    to = tmp_path_factory.mktemp("local") / "vectors"
    embed(shop.store.root, items, to)
    return to


def test_writes_the_bytes_of_one_machine(
    cluster: Cluster, shop: Shop, items: Path, local: Path, tmp_path: Path
) -> None:
    to = tmp_path / "vectors"
    done = embed(shop.store.root, items, to, "--engine", "ray", "--ray-address", cluster.address)
    assert (done["parts"], done["computed"]) == (SLICES, SLICES)
    assert parts(to) == parts(local)
    for name in ("plan.json", "embeddings.json"):
        assert (to / name).read_bytes() == (local / name).read_bytes()
    # And this machine takes what the cluster made for its own.
    assert embed(shop.store.root, items, to)["computed"] == 0


def test_from_a_bucket_to_a_bucket_while_a_node_dies(
    cluster: Cluster, s3: S3Server | None, shop: Shop, items: Path, local: Path
) -> None:
    if s3 is None:
        pytest.skip("there is no S3 server")
    bucket = Bucket(s3.url)
    for path in (path for path in shop.store.root.rglob("*") if path.is_file()):
        bucket.upload(path.relative_to(shop.store.root).as_posix(), path)
    for path in items.iterdir():
        bucket.upload(f"items/{path.name}", path)
    folder = s3.object("vectors")
    words = arguments(
        s3.url, f"{s3.url}/items", f"{s3.url}/vectors", "--engine", "ray", "--ray-address", cluster.address
    )
    node = cluster.nodes[0]
    try:
        with start(words) as process:
            wait_for(lambda: (folder / "plan.json").exists() or process.poll() is not None, "the plan", 120)
            cluster.remove(node)
            out, told = process.communicate(timeout=200)
    finally:
        cluster.add(node)
    assert process.returncode == 0, told
    assert json.loads(out)["computed"] == SLICES
    assert parts(folder) == parts(local)
