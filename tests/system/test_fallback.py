"""The client's fallback to popular items, with running services, while the query tower cannot answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.store.folder_store import FolderStore
from tests.clients.world import free_port
from tests.harness import Running, ann_service, query_tower_service
from tests.retrieval.serving.rpc.test_server import Blocked
from tests.worlds import wait_for, write_bundle
from two_tower_client import (
    AsyncRetriever,
    InvalidRequest,
    NoBundle,
    PopularityNotServed,
    Retrieval,
    Retriever,
    Unauthenticated,
    Unavailable,
    filters,
)
from two_tower_client.cli.main import main

FEATURES = {"age": 25.0}
POPULAR: Any = {"popularity": lambda row: row}
"""Item i299 is the most popular one, then i298, and so on."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    """A store with one bundle, which knows the popularity of its items; tests must not change it."""
    store = FolderStore(tmp_path_factory.mktemp("store"))
    write_bundle(store, **POPULAR)
    return store


@pytest.fixture(scope="module")
def ann(store: FolderStore) -> Iterator[str]:
    with ann_service(store) as service:
        yield address(ready(service))


def address(service: Running) -> str:
    return f"127.0.0.1:{service.port}"


def ready(service: Running) -> Running:
    wait_for(lambda: service.health() == "SERVING", "it serves")
    return service


def away() -> str:
    return f"127.0.0.1:{free_port()}"


def test_a_request_that_is_too_large_is_the_fault_of_its_caller(store: FolderStore, ann: str) -> None:
    with (
        query_tower_service(store, max_request_bytes=2048) as query_tower,
        Retriever(address(ready(query_tower)), ann, timeout_s=5) as retriever,
        pytest.raises(InvalidRequest, match="accepts no request of this size"),
    ):
        retriever.retrieve({"watched": ["i1"] * 1000}, fallback="popular")


def test_no_fallback_is_used_unless_it_is_asked_for_and_needed(store: FolderStore, ann: str) -> None:
    with Retriever(away(), ann) as retriever, pytest.raises(Unavailable):
        retriever.retrieve(FEATURES)
    with query_tower_service(store) as query_tower, Retriever(address(ready(query_tower)), ann, timeout_s=5) as both:
        retrieval = both.retrieve(FEATURES, fallback="popular")
        assert (retrieval.is_fallback, retrieval.fallback_reason) == (False, "")
        assert retrieval == both.retrieve(FEATURES)


def test_popular_items_answer_while_the_query_tower_is_away(ann: str) -> None:
    async def ask(query_tower: str) -> list[Retrieval]:
        async with AsyncRetriever(query_tower, ann, timeout_s=5) as retriever:
            return await retriever.retrieve_batch([FEATURES, FEATURES], 3, fallback="popular", request_id="r1")

    query_tower = away()
    with Retriever(query_tower, ann, timeout_s=5) as retriever:
        retrievals = retriever.retrieve_batch([FEATURES, FEATURES], 3, fallback="popular", request_id="r1")
        assert retriever.popular(3).item_ids == ("i299", "i298", "i297")
        assert not retriever.popular(3).is_fallback
    for retrieval in (*retrievals, *asyncio.run(ask(query_tower))):
        assert retrieval.item_ids == ("i299", "i298", "i297")
        # The events of all items are 0 + 1 + … + 299 = 44,850.
        assert retrieval.scores == pytest.approx((299 / 44_850, 298 / 44_850, 297 / 44_850))
        assert retrieval.is_fallback
        assert retrieval.fallback_reason.startswith(f"Unavailable: ipv4:{query_tower} is unavailable")
        assert retrieval.fallback_reason.endswith("(request r1)")


def test_filter_exclusions_and_attributes_are_kept_and_the_smallest_score_is_not(ann: str) -> None:
    options: Any = {"filter": filters.equals("genres", "drama"), "exclude": ["i299", "i298"], "min_score": 0.9}
    with Retriever(away(), ann, timeout_s=5) as retriever:
        retrieval = retriever.retrieve(
            FEATURES, 2, fallback="popular", text="red", ranking="fused", return_attributes=["year"], **options
        )
    # Rows of the remainders 2 and 3 by 4 are dramas, and the year of a row is 1950 + row % 70.
    assert retrieval.item_ids == ("i295", "i294")
    assert retrieval.attributes["year"] == (1965, None)


def test_popular_items_answer_while_the_query_tower_refuses_calls(
    store: FolderStore, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with query_tower_service(store, threads=1, max_in_flight=1) as query_tower:
        target = address(ready(query_tower))
        blocked = Blocked(monkeypatch)
        with Retriever(target, ann, timeout_s=5) as retriever, Retriever(target, ann, timeout_s=20) as first:
            with asyncio.Runner() as runner:
                waiting = runner.get_loop().run_in_executor(None, first.retrieve, FEATURES)
                assert blocked.entered.acquire(timeout=10)
                retrieval = retriever.retrieve(FEATURES, 1, fallback="popular")
                blocked.release.set()
                assert not runner.run(waited(waiting)).is_fallback
            assert not retriever.retrieve(FEATURES, 1, fallback="popular").is_fallback
    assert retrieval.item_ids == ("i299",)
    assert retrieval.fallback_reason.startswith(f"Overloaded: ipv4:{target} is overloaded")


async def waited(future: Any) -> Any:
    return await future


def test_a_query_tower_that_takes_too_long_leaves_time_for_the_fallback(
    store: FolderStore, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with query_tower_service(store) as query_tower:
        target = address(ready(query_tower))
        blocked = Blocked(monkeypatch)
        with Retriever(target, ann, timeout_s=2) as retriever:
            retrieval = retriever.retrieve(FEATURES, 1, fallback="popular")
        blocked.release.set()
    assert retrieval.item_ids == ("i299",)
    assert retrieval.fallback_reason.startswith(f"DeadlineExceeded: ipv4:{target} did not answer in time")


def test_popular_items_answer_while_the_query_tower_has_no_bundle(tmp_path: Path, ann: str) -> None:
    with (
        query_tower_service(FolderStore(tmp_path / "empty")) as query_tower,
        Retriever(address(query_tower), ann, check_health=False, timeout_s=5) as retriever,
    ):
        with pytest.raises(NoBundle):
            retriever.retrieve(FEATURES)
        assert retriever.retrieve(FEATURES, 1, fallback="popular").fallback_reason.startswith("NoBundle: ")


def test_popular_items_answer_while_the_services_share_no_model(tmp_path: Path, ann: str) -> None:
    other = FolderStore(tmp_path / "other")
    write_bundle(other, seed=2)
    with (
        query_tower_service(other) as query_tower,
        Retriever(address(ready(query_tower)), ann, timeout_s=5) as retriever,
    ):
        retrieval = retriever.retrieve(FEATURES, 1, fallback="popular")
    assert retrieval.item_ids == ("i299",)
    assert retrieval.fallback_reason.startswith("ModelNotServed: query tower and ANN service share no model")


def test_errors_of_the_caller_are_raised(store: FolderStore, ann: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with (
        query_tower_service(store, token_file=tmp_path / "token") as query_tower,
        Retriever(address(ready(query_tower)), ann, timeout_s=5) as retriever,
        pytest.raises(Unauthenticated),
    ):
        retriever.retrieve(FEATURES, fallback="popular")
    with query_tower_service(store) as query_tower, Retriever(address(ready(query_tower)), ann, timeout_s=5) as both:
        with pytest.raises(InvalidRequest, match="colour"):
            both.retrieve({"colour": "red"}, fallback="popular")
        with pytest.raises(InvalidRequest, match="fallback: has to be None or 'popular', got 'random'"):
            both.retrieve(FEATURES, fallback="random")  # type: ignore[arg-type]
    with Retriever(away(), ann, timeout_s=5) as retriever, pytest.raises(InvalidRequest, match="k"):
        retriever.retrieve(FEATURES, 0, fallback="popular")


def test_the_error_of_a_fallback_that_fails_is_raised(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    write_bundle(store)
    with ann_service(store) as ann, Retriever(away(), address(ready(ann)), timeout_s=5) as retriever:
        with pytest.raises(PopularityNotServed) as caught:
            retriever.retrieve(FEATURES, fallback="popular")
        assert caught.value.bundle_versions == ()
    with Retriever(away(), away()) as retriever, pytest.raises(Unavailable):
        retriever.retrieve(FEATURES, fallback="popular")


def test_fallbacks_follow_swaps_of_the_live_bundle(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = write_bundle(store, **POPULAR)
    with ann_service(store) as ann, Retriever(away(), address(ready(ann)), timeout_s=5) as retriever:
        before = retriever.retrieve(FEATURES, 1, fallback="popular")
        second = write_bundle(store, seed=2, popularity=lambda row: 300 - row)
        ann.wait_for_bundle(second.bundle_version)
        after = retriever.retrieve(FEATURES, 1, fallback="popular")
        store.roll_back()
        ann.wait_for_bundle(first.bundle_version)
        again = retriever.retrieve(FEATURES, 1, fallback="popular")
    assert (before.item_ids, before.bundle_version) == (("i299",), first.bundle_version)
    assert (after.item_ids, after.bundle_version) == (("i0",), second.bundle_version)
    assert again.bundle_version == first.bundle_version


def test_the_command_line_prints_popular_items_and_the_reason(ann: str, capsys: pytest.CaptureFixture[str]) -> None:
    query_tower = away()
    flags = ["--ann", ann, "--k", "1", "--exclude", "i299"]
    assert main(["popular", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "i298", "0.0066"]  # 298 / 44,850
    assert "fallback" not in lines[-1]
    feature = ["--query-tower", query_tower, "--feature", "age=25"]
    assert main(["retrieve", *flags, *feature, "--fallback", "popular"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "i298", "0.0066"]
    assert lines[-1].startswith(f"! fallback: popular items, because of Unavailable: ipv4:{query_tower} is unavailable")
    assert main(["retrieve", *flags, *feature, "--fallback", "popular", "--json"]) == 0
    assert '"fallback_reason": "Unavailable: ' in capsys.readouterr().out
    assert main(["retrieve", *flags, *feature]) == 1
