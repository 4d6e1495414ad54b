"""Load gates of the query tower service: a faulty query tower never replaces the open one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.store.folder_store import FolderStore
from tests.harness import query_tower_service
from tests.worlds import tower, write_bundle
from two_tower.query.v1 import query_tower_service_pb2 as pb

Damage = Callable[[Path], None]


def rewrite_golden_queries(change: Callable[[GoldenQueries], GoldenQueries]) -> Damage:
    def damage(folder: Path) -> None:
        golden_queries = change(GoldenQueries.read(folder / "canaries.json"))
        (folder / "canaries.json").unlink()
        golden_queries.write(folder / "canaries.json")

    return damage


def other_tower(folder: Path) -> None:
    (folder / "query_tower.tflite").write_bytes(tower(2).tflite)


def no_tower(folder: Path) -> None:
    (folder / "query_tower.tflite").write_bytes(b"\0" * 4000)


def fewer_genders(folder: Path) -> None:
    path = folder / "vocabularies.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "genders": ["m", "f", "x"]}))


def no_genders(folder: Path) -> None:
    path = folder / "vocabularies.json"
    path.write_text(json.dumps({"items": [], "genres": []}))


def without_a_feature(manifest: Any) -> Any:
    features = manifest.feature_schema["features"]
    return replace(manifest, feature_schema={"features": features[1:]})


@pytest.mark.parametrize(
    ("fields", "gate"),
    [
        ({"damage": other_tower}, "canaries"),
        ({"damage": no_tower}, "contents"),
        ({"damage": fewer_genders}, "canaries"),
        ({"damage": no_genders}, "contents"),
        ({"manifest": without_a_feature}, "contents"),
        ({"manifest": lambda m: replace(m, dimension=9)}, "contents"),
        (
            {"damage": rewrite_golden_queries(lambda c: replace(c, embeddings=c.embeddings + np.float32(2e-4)))},
            "canaries",
        ),
        ({"damage": rewrite_golden_queries(lambda c: replace(c, columns={"height": [1.0] * 4}))}, "contents"),
        ({"damage": rewrite_golden_queries(lambda c: replace(c, embeddings=c.embeddings[:, :7]))}, "canaries"),
    ],
)
def test_keeps_the_old_tower_when_the_new_one_is_published_wrong(
    store: FolderStore, fields: dict[str, Any], gate: str
) -> None:
    good = write_bundle(store)
    with query_tower_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, **fields).bundle_version
        problem = service.wait_for_problem(bad)
        assert problem.gate == gate, problem.message
        response = service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[pb.Query()]), timeout=10)
        assert response.model_version == good.model_version
        assert service.health() == "SERVING"


@pytest.mark.parametrize("name", ["query_tower.tflite", "vocabularies.json", "canaries.json"])
def test_keeps_the_old_tower_when_the_new_one_is_damaged(store: FolderStore, name: str) -> None:
    good = write_bundle(store)
    with query_tower_service(store, retry_after_s=0.05) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, seed=2, promote=False).bundle_version
        path = store.path(bad) / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (store.root / "LIVE").write_text(f"{bad}\n{good.bundle_version}\n")
        problem = service.wait_for_problem(bad)
        assert (problem.gate, problem.message.startswith(name)) == ("sha256", True)
        path.write_bytes(whole)
        service.wait_for_bundle(bad)
