"""One call in each form that the gateway takes: JSON over HTTP, gRPC and gRPC-Web. The answers are the same."""

from __future__ import annotations

import base64
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from testbed.services import ROOT, Replica
from tests.system.gateway.world import QUERIES, World, wait_until_healthy
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2
from two_tower.query.v1 import query_tower_service_pb2
from two_tower_client import InvalidRequest, ModelNotServed, Retriever, Search, query_tower
from two_tower_client.filters import equals

EMBED, SEARCH = "/v1/queries:embed", "/v1/items:search"
EMBED_RPC = "/two_tower.query.v1.QueryTowerService/EmbedQueries"
DOCUMENT = yaml.safe_load((ROOT / "deploy" / "envoy" / "openapi.yaml").read_text(encoding="utf-8"))


def as_json(*queries: dict[str, Any]) -> dict[str, Any]:
    return MessageToDict(query_tower.to_request(queries, ""), preserving_proto_field_name=True)


def check(value: Any, schema: str) -> None:
    """Checks JSON against a schema of the OpenAPI document."""
    jsonschema.validate(value, {**DOCUMENT, "$ref": f"#/components/schemas/{schema}"}, jsonschema.Draft202012Validator)


def test_json_gives_the_items_that_grpc_gives(world: World, retriever: Retriever) -> None:
    for query, features in enumerate(QUERIES):
        request = as_json(features)
        check(request, "two_tower.query.v1.EmbedQueriesRequest")
        embedded = world.post(EMBED, request)
        assert embedded.status == 200
        check(embedded.json, "two_tower.query.v1.EmbedQueriesResponse")
        vector = np.array(embedded.json["embeddings"][0]["values"], np.float32)
        assert np.array_equal(vector, np.array(retriever.query_tower.embed([features]).vectors[0], np.float32))

        search = {"embedding": embedded.json["embeddings"][0], "k": 5, "return_attributes": ["year", "title"]}
        request = {"model_version": embedded.json["model_version"], "searches": [search]}
        check(request, "two_tower.ann.v1.SearchItemsRequest")
        found = world.post(SEARCH, request)
        assert found.status == 200
        check(found.json, "two_tower.ann.v1.SearchItemsResponse")
        expected = retriever.retrieve(features, k=5, return_attributes=["year", "title"])
        (result,) = found.json["results"]
        assert result["item_ids"] == list(expected.item_ids)
        assert result["scores"] == pytest.approx(expected.scores, abs=1e-6)
        years = [int(year) for year in result["attributes"][0]["ints"]["values"]]  # 64-bit integers are strings
        assert years == [year or 0 for year in expected.attributes["year"]]
        assert not world.is_mixed(query, expected)


def test_json_filters_as_grpc_does(world: World, retriever: Retriever) -> None:
    comedies = {"equals": {"attribute": "genres", "value": {"string_value": "comedy"}}}
    target = {"similar_to": {"values": ["i7"]}, "k": 9, "filter": comedies, "min_score": 0.1}
    found = world.post(SEARCH, {"searches": [target]})
    check(found.json, "two_tower.ann.v1.SearchItemsResponse")
    expected = retriever.similar_to("i7", 9, filter=equals("genres", "comedy"), min_score=0.1)
    assert found.json["results"][0]["item_ids"] == list(expected.item_ids)
    assert len(expected.item_ids) > 3


def test_the_status_of_both_services_can_be_read(world: World) -> None:
    tower, ann = world.get("/v1/query-tower/status"), world.get("/v1/ann/status")
    check(tower.json, "two_tower.query.v1.GetServingStatusResponse")
    check(ann.json, "two_tower.ann.v1.GetServingStatusResponse")
    live = world.stable_store.live_version()
    assert tower.json["live_bundle_version"] == ann.json["live_bundle_version"] == live
    assert ann.json["bundles"][0]["item_count"] == "300"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "text"),
    [
        (EMBED, {"queries": [{"features": {"agee": {"ints": {"values": [1]}}}}]}, 400, 3, "the model reads age"),
        (EMBED, {"queries": "all"}, 400, 3, "queries"),
        (EMBED, {}, 400, 3, "0 queries"),
        (SEARCH, {"searches": [{"similar_to": {"values": ["gone"]}, "k": 1}]}, 404, 5, "gone"),
        (SEARCH, {"searches": [{"popular": {}, "k": 1}]}, 400, 9, "popularity"),
        (EMBED, {"model_version": "x" * 7_000_000}, 413, 8, "larger than 6 MiB"),
        ("/v1/nothing", {}, 404, 5, "openapi.yaml lists them"),
    ],
)
def test_an_error_is_json_with_its_http_status(
    world: World, path: str, body: Any, status: int, code: int, text: str
) -> None:
    answer = world.post(path, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    check(answer.json, "google.rpc.Status")
    assert answer.json["code"] == code
    assert text in answer.json["message"]


def test_the_reason_of_an_error_is_among_its_details(world: World) -> None:
    embedding = world.post(EMBED, as_json({})).json["embeddings"][0]
    request = {"model_version": "gone", "searches": [{"embedding": embedding, "k": 1}]}
    answer = world.post(SEARCH, request, x_request_id="mine")
    check(answer.json, "google.rpc.Status")
    reason, request_info = answer.json["details"]
    assert (answer.status, reason["reason"]) == (400, "MODEL_NOT_SERVED")
    assert reason["metadata"] == {"model_versions": world.stable_store.live_version()}
    assert request_info["request_id"] == "mine"


def test_the_deadline_of_the_caller_holds_and_health_tells_of_frozen_replicas(world: World) -> None:
    assert world.get("/healthz").status == 200
    with frozen(*world.stable.query_towers):
        began_s = time.monotonic()
        answer = world.post(EMBED, as_json({}), grpc_timeout="300m")
        assert (answer.status, answer.json["code"]) == (504, 4)
        assert time.monotonic() - began_s < 5
        wait_for(lambda: world.get("/healthz").status == 503, "Envoy notices")
        wait_for(lambda: world.post(EMBED, as_json({}), grpc_timeout="100m").json["code"] == 14, "UNAVAILABLE at once")
    wait_until_healthy(world.gateway)
    assert world.post(EMBED, as_json({})).status == 200


@contextmanager
def frozen(*replicas: Replica) -> Iterator[None]:
    """Stops processes with SIGSTOP, and lets them go on at the end."""
    processes = [replica.process for replica in replicas if replica.process is not None]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def test_the_python_client_calls_both_services_at_one_address(world: World, retriever: Retriever) -> None:
    answers = retriever.retrieve_batch(QUERIES, 5)
    assert not any(world.is_mixed(query, answer) for query, answer in enumerate(answers))
    with pytest.raises(InvalidRequest, match="unknown feature"):
        retriever.retrieve({"agee": 3})
    with pytest.raises(ModelNotServed):
        retriever.ann.search([Search(embedding=[1.0] * 8)], model_version="gone")


def test_the_python_client_works_with_its_health_checks_too(world: World) -> None:
    with Retriever(world.gateway.address, world.gateway.address, timeout_s=10.0) as retriever:
        assert retriever.retrieve(QUERIES[0]).bundle_version == world.stable_store.live_version()


@pytest.mark.parametrize("text", [False, True])
def test_grpc_web_answers_in_its_frames(world: World, retriever: Retriever, text: bool) -> None:
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    message = query_tower.to_request([QUERIES[1]], "").SerializeToString()
    sent = struct.pack(">BI", 0, len(message)) + message
    answer = world.request(
        EMBED_RPC, base64.b64encode(sent) if text else sent, content_type=kind, accept=kind, x_grpc_web="1"
    )
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    frames = read_frames(_decoded(answer.body) if text else answer.body)
    (flag, data), (trailer_flag, trailers) = frames
    assert (flag, trailer_flag) == (0, 0x80)
    assert b"grpc-status:0" in trailers.replace(b" ", b"")
    response = query_tower_service_pb2.EmbedQueriesResponse.FromString(data)
    assert tuple(response.embeddings[0].values) == retriever.query_tower.embed([QUERIES[1]]).vectors[0]


def _decoded(body: bytes) -> bytes:
    """Decodes base64 of several parts, each with padding of its own."""
    return b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in body.split(b"=") if part)


def read_frames(body: bytes) -> list[tuple[int, bytes]]:
    """Returns flag and content of each frame of gRPC-Web."""
    frames = list[tuple[int, bytes]]()
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        frames.append((flag, body[5 : 5 + length]))
        body = body[5 + length :]
    return frames


def test_an_error_of_grpc_web_has_its_status(world: World) -> None:
    kind = "application/grpc-web+proto"
    request = ann_service_pb2.SearchItemsRequest().SerializeToString()
    sent = struct.pack(">BI", 0, len(request)) + request
    answer = world.request("/two_tower.ann.v1.AnnService/SearchItems", sent, content_type=kind, accept=kind)
    assert answer.status == 200
    assert answer.headers["grpc-status"] == "3"


def test_the_access_log_has_a_line_of_json_for_each_call_without_its_content(world: World) -> None:
    world.post(EMBED, as_json({"gender": "secret-body"}), x_request_id="logged", authorization="Bearer secret-token")
    world.get("/v1/ann/status", x_request_id="last", two_tower_user="secret-user", two_tower_caller="shop")

    def lines() -> list[dict[str, Any]]:
        written = world.gateway.access_log.read_text().splitlines()
        return [yaml.safe_load(line) for line in written if '"logged"' in line or '"last"' in line]

    first, second = wait_for(lambda: (found := lines()) and len(found) == 2 and found, "both lines")
    assert (first["path"], first["cluster"], first["http_status"]) == (EMBED, "stable-query-tower", 200)
    assert (second["cluster"], second["caller"], second["attempts"]) == ("stable-ann", "shop", 1)
    assert "secret" not in world.gateway.access_log.read_text()
