"""Two complete pairs of services with different models, and a real Envoy in front of them."""

from __future__ import annotations

import functools
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from retrieval.store.folder_store import FolderStore
from testbed.gateway.envoy import Gateway
from testbed.offline import OfflineBundle
from testbed.services import Pair, Replica
from tests.system.readings import free_port
from tests.worlds import wait_for, write_bundle
from two_tower_client import Retrieval

QUERIES: list[dict[str, Any]] = [
    {
        "age": 20 + 5 * n,
        "gender": "fmx"[n % 3],
        "likes": ["comedy", "horror"][: n % 3],
        "watched": [f"i{n}", f"i{9 * n}"],
    }
    for n in range(5)
]
REPLICAS = 2
"""Replicas of each service of the stable pair; the candidate pair has one."""


@dataclass(frozen=True)
class Answer:
    """Answer to a call over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class World:
    """Both stores, the pairs that serve them, and the gateway.

    Attributes:
        offline: Function from a bundle version of either store to that bundle, with the embeddings of QUERIES.
    """

    stable_store: FolderStore
    candidate_store: FolderStore
    stable: Pair
    candidate: Pair
    gateway: Gateway
    offline: Callable[[str], OfflineBundle]

    def request(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Calls the gateway over HTTP/1.1: GET without a body, else POST. Names of headers have _ for -."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.gateway.address}{path}", data=body, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """Sends JSON."""
        return self.request(path, json.dumps(body).encode(), content_type="application/json", **headers)

    def get(self, path: str, **headers: str) -> Answer:
        return self.request(path, None, **headers)

    def is_mixed(self, query: int, answer: Retrieval) -> bool:
        """Returns whether an answer is not the one that its bundle gives offline."""
        return not self.offline(answer.bundle_version).agrees(query, answer.item_ids, answer.scores)


@contextmanager
def running(folder: Path) -> Iterator[World]:
    """Runs both pairs and the gateway."""
    stable_store, candidate_store = FolderStore(folder / "stable"), FolderStore(folder / "candidate")
    for seed, store in enumerate((stable_store, candidate_store), start=1):
        write_bundle(store, seed=seed, catalogue_seed=seed)

    @functools.cache
    def offline(version: str) -> OfflineBundle:
        store = stable_store if version in stable_store.versions() else candidate_store
        return OfflineBundle(store, version, QUERIES)

    stable = Pair(stable_store.root, folder / "stable-logs", replicas=REPLICAS)
    candidate = Pair(candidate_store.root, folder / "candidate-logs")
    for replica in (*stable.replicas, *candidate.replicas):
        replica.flags = {**replica.flags, "metrics-port": str(free_port())}
    with stable, candidate, Gateway(folder / "envoy", stable, candidate) as gateway:
        wait_until_healthy(gateway)
        yield World(stable_store, candidate_store, stable, candidate, gateway, offline)


def wait_until_healthy(gateway: Gateway) -> None:
    """Waits until Envoy sends calls to all replicas."""
    for cluster, replicas in (("stable", REPLICAS), ("candidate", 1)):
        for service in ("query-tower", "ann"):
            wait_for(
                lambda name=f"{cluster}-{service}", count=replicas: gateway.healthy_replicas(name) == count,
                f"{replicas} replicas of {cluster}-{service} are healthy",
            )


def requests(replica: Replica, method: str) -> dict[str, int]:
    """Returns the number of calls of a method that a replica has answered, by status code."""
    with urllib.request.urlopen(f"http://127.0.0.1:{replica.flags['metrics-port']}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    counts = dict[str, int]()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "two_tower_requests_total" and sample.labels["method"] == method:
            counts[sample.labels["code"]] = counts.get(sample.labels["code"], 0) + int(sample.value)
    return counts
