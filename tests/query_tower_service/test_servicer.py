"""The RPCs of the query tower service, from a running service."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from tests.harness import Running, failure, fields, query_tower_service
from tests.worlds import GOLDEN_COLUMNS, tower, wait_for, write_bundle
from two_tower.query.v1 import query_tower_service_pb2 as pb

TYPES = {"age": "floats", "gender": "strings", "device": "ints", "likes": "strings", "watched": "strings"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Manifest]]:
    store = FolderStore(tmp_path_factory.mktemp("store"))
    manifest = write_bundle(store)
    with query_tower_service(store, max_batch_size=50) as service:
        service.wait_for_bundle(manifest.bundle_version)
        yield service, manifest


def golden_query(row: int) -> pb.Query:
    query = pb.Query()
    for name, column in GOLDEN_COLUMNS.items():
        if (value := column[row]) is not None:
            values = value if isinstance(value, list) else [value]
            target = getattr(query.features[name], TYPES[name])
            target.values.extend(values)
            target.SetInParent()
    return query


def query_of(name: str, **kind: list[object]) -> pb.Query:
    query = pb.Query()
    for key, values in kind.items():
        getattr(query.features[name], key).values.extend(values)
    return query


def embed(service: Running, *queries: pb.Query, model_version: str = "") -> pb.EmbedQueriesResponse:
    return service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=queries, model_version=model_version), timeout=10)


def embeddings(response: pb.EmbedQueriesResponse) -> np.ndarray:
    return np.array([list(embedding.values) for embedding in response.embeddings])


def test_returns_the_embeddings_of_keras_in_the_order_of_the_request(world: tuple[Running, Manifest]) -> None:
    service, manifest = world
    response = embed(service, *(golden_query(row) for row in (2, 0, 3, 1)))
    assert response.model_version == manifest.model_version
    np.testing.assert_allclose(embeddings(response), tower(1).golden_embeddings[[2, 0, 3, 1]], atol=1e-5)


def test_one_query_answers_as_in_a_batch(world: tuple[Running, Manifest]) -> None:
    batch = embeddings(embed(world[0], *(golden_query(row) for row in range(4))))
    alone = np.concatenate([embeddings(embed(world[0], golden_query(row))) for row in range(4)])
    np.testing.assert_allclose(alone, batch, atol=1e-6)


def test_query_without_features_has_an_embedding_of_unit_length(world: tuple[Running, Manifest]) -> None:
    # Slot 0 has weights of its own in this tower.
    assert np.linalg.norm(embeddings(embed(world[0], pb.Query()))) == pytest.approx(1.0, abs=1e-5)


def test_empty_list_means_missing(world: tuple[Running, Manifest]) -> None:
    query = pb.Query()
    query.features["gender"].strings.SetInParent()
    query.features["watched"].strings.SetInParent()
    np.testing.assert_array_equal(embeddings(embed(world[0], query)), embeddings(embed(world[0], pb.Query())))
    empty = query_of("gender", strings=[""])
    np.testing.assert_array_equal(embeddings(embed(world[0], empty)), embeddings(embed(world[0], pb.Query())))


def test_values_that_the_model_does_not_know_are_counted(world: tuple[Running, Manifest]) -> None:
    known, wrong = query_of("watched", strings=["i1", "i2"]), query_of("watched", strings=["i1", "typo", "other"])
    gender = query_of("gender", strings=["zz"])
    assert list(embed(world[0], known, pb.Query()).unknown_values) == []
    assert list(embed(world[0], wrong).unknown_values) == [2]
    assert list(embed(world[0], known, wrong, gender, known).unknown_values) == [0, 2, 1, 0]
    many = [known] * 40 + [wrong] + [known] * 9  # several steps
    assert list(embed(world[0], *many).unknown_values) == [0] * 40 + [2] + [0] * 9


def test_ints_are_accepted_for_floats(world: tuple[Running, Manifest]) -> None:
    ints, floats = query_of("age", ints=[30]), query_of("age", floats=[30.0])
    np.testing.assert_array_equal(embeddings(embed(world[0], ints)), embeddings(embed(world[0], floats)))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (query_of("height", floats=[1.0]), 'queries[1].features["height"]'),
        (query_of("age", strings=["old"]), 'queries[1].features["age"]'),
        (query_of("device", floats=[1.0]), 'queries[1].features["device"]'),
        (query_of("age", floats=[1.0, 2.0]), 'queries[1].features["age"]'),
        (query_of("age", floats=[math.nan]), 'queries[1].features["age"]'),
        (query_of("age", floats=[-math.inf]), 'queries[1].features["age"]'),
        (query_of("gender", strings=["f" * 1025]), 'queries[1].features["gender"]'),
        (query_of("watched", strings=["i1"] * 10_001), 'queries[1].features["watched"]'),
        (pb.Query(features={"age": pb.FeatureValues()}), 'queries[1].features["age"]'),
        (query_of("gender", strings=["f"] * (1 << 19)), "queries[1]"),
        (pb.Query(features={f"f{number}": pb.FeatureValues() for number in range(1001)}), "queries[1].features"),
    ],
)
def test_says_which_field_is_wrong(world: tuple[Running, Manifest], query: pb.Query, field: str) -> None:
    request = pb.EmbedQueriesRequest(queries=[pb.Query(), query])
    code, message, detail = failure(world[0].stub.EmbedQueries, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", [field])
    assert message.startswith(field)


def test_says_everything_that_is_wrong_at_once_but_at_most_twenty(world: tuple[Running, Manifest]) -> None:
    wrong = [query_of("age", floats=[math.nan])] * 3
    _, _, detail = failure(world[0].stub.EmbedQueries, pb.EmbedQueriesRequest(queries=wrong))
    assert fields(detail) == [f'queries[{row}].features["age"]' for row in range(3)]
    _, _, detail = failure(world[0].stub.EmbedQueries, pb.EmbedQueriesRequest(queries=wrong * 10))
    assert len(detail.field_violations) == 20


def test_limits_are_inclusive(world: tuple[Running, Manifest]) -> None:
    longest = query_of("gender", strings=["f" * 1024])
    most = query_of("watched", strings=["i1"] * 10_000)
    assert len(embed(world[0], longest, most).embeddings) == 2


@pytest.mark.parametrize("count", [0, 51])
def test_refuses_an_empty_or_a_too_large_batch(world: tuple[Running, Manifest], count: int) -> None:
    code, _, detail = failure(world[0].stub.EmbedQueries, pb.EmbedQueriesRequest(queries=[pb.Query()] * count))
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["queries"])


def test_unknown_model_is_refused_with_the_open_ones(world: tuple[Running, Manifest]) -> None:
    service, manifest = world
    request = pb.EmbedQueriesRequest(queries=[pb.Query()], model_version="20200101T000000Z-000000")
    code, _, detail = failure(service.stub.EmbedQueries, request)
    assert (code, detail.reason, detail.domain) == ("FAILED_PRECONDITION", "MODEL_NOT_SERVED", "two-tower")
    assert dict(detail.metadata) == {"model_versions": manifest.model_version}


def test_status_describes_what_a_query_may_carry(world: tuple[Running, Manifest]) -> None:
    service, manifest = world
    status = service.status()
    assert status.newest_model_version == manifest.model_version
    assert status.live_bundle_version == manifest.bundle_version
    assert (status.max_batch_size, len(status.models), len(status.problems)) == (50, 1, 0)
    described = [(f.name, f.kind, f.value_type, f.max_values) for f in status.models[0].features]
    assert described == [
        ("age", pb.FEATURE_KIND_NUMERIC, pb.VALUE_TYPE_FLOAT, 1),
        ("gender", pb.FEATURE_KIND_CATEGORICAL, pb.VALUE_TYPE_STRING, 1),
        ("device", pb.FEATURE_KIND_CATEGORICAL, pb.VALUE_TYPE_INT, 1),
        ("likes", pb.FEATURE_KIND_MULTI_CATEGORICAL, pb.VALUE_TYPE_STRING, 3),
        ("watched", pb.FEATURE_KIND_HISTORY, pb.VALUE_TYPE_STRING, 4),
    ]
    assert status.models[0].dimension == 8


def test_waits_for_a_first_bundle(store: FolderStore) -> None:
    with query_tower_service(store) as service:
        wait_for(lambda: service.status().problems, "the missing bundle is reported")
        assert service.health() == "NOT_SERVING"
        code, _, detail = failure(service.stub.EmbedQueries, pb.EmbedQueriesRequest(queries=[pb.Query()]))
        assert (code, detail.reason) == ("UNAVAILABLE", "NO_BUNDLE")
        manifest = write_bundle(store)
        service.wait_for_bundle(manifest.bundle_version)
        wait_for(lambda: service.health("two_tower.query.v1.QueryTowerService") == "SERVING", "it serves")
        assert not service.status().problems


def test_serves_the_new_model_by_default_and_the_old_one_on_request(store: FolderStore) -> None:
    old = write_bundle(store, seed=1)
    with query_tower_service(store) as service:
        service.wait_for_bundle(old.bundle_version)
        new = write_bundle(store, seed=2)
        service.wait_for_bundle(new.bundle_version)
        newest, pinned = (
            embed(service, golden_query(0)),
            embed(service, golden_query(0), model_version=old.model_version),
        )
        assert (newest.model_version, pinned.model_version) == (new.model_version, old.model_version)
        np.testing.assert_allclose(embeddings(newest), tower(2).golden_embeddings[:1], atol=1e-5)
        np.testing.assert_allclose(embeddings(pinned), tower(1).golden_embeddings[:1], atol=1e-5)
        store.roll_back()
        wait_for(lambda: embed(service, pb.Query()).model_version == old.model_version, "it rolls back")


def test_bundle_of_the_same_model_shares_the_open_tower(store: FolderStore) -> None:
    first = write_bundle(store)
    with query_tower_service(store) as service:
        service.wait_for_bundle(first.bundle_version)
        second = write_bundle(store, model_version=first.model_version, catalogue_seed=2)
        wait_for(
            lambda: (
                service.status().live_bundle_version == second.bundle_version
                and not service.status().loading_bundle_version
            ),
            "the second one is live",
        )
        models = service.status().models
        assert [(m.model_version, m.bundle_version) for m in models] == [(first.model_version, first.bundle_version)]


def test_refuses_another_tower_under_the_same_model_version(store: FolderStore) -> None:
    first = write_bundle(store, seed=1)
    with query_tower_service(store) as service:
        service.wait_for_bundle(first.bundle_version)
        second = write_bundle(store, seed=2, model_version=first.model_version)
        assert service.wait_for_problem(second.bundle_version).gate == "model"
        assert embed(service, pb.Query()).model_version == first.model_version
