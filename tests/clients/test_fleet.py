"""The serving status and the faults of replicas."""

from dataclasses import replace
from pathlib import Path

import psutil

from retrieval.store.folder_store import FolderStore
from tests.clients.conftest import World
from tests.harness import ann_service, process
from tests.worlds import wait_for, write_bundle
from two_tower_client.fleet import Fleet, Problem, Replica, find_faults, find_live, find_ready, merge_workers

QUERY = Replica("query_tower", "q:1", "", "b2", "b2", "m2", ("b2", "b1"), ("m2", "m1"))
ANN = Replica("ann", "a:1", "", "b2", "b2", "m2", ("b2", "b1"), ("m2", "m1"))


def test_all_is_well_when_replicas_answer_and_agree() -> None:
    assert find_faults([QUERY, replace(QUERY, address="q:2"), ANN, replace(ANN, address="a:2")]) == []


def test_a_query_tower_may_serve_the_model_from_another_bundle() -> None:
    assert find_faults([replace(QUERY, live_bundle="b1"), ANN]) == []


def test_faults() -> None:
    silent = Replica("ann", "a:2", "a:2 is unavailable")
    empty = Replica("ann", "a:3")
    refusing = replace(ANN, problems=(Problem("b3", "sha256", "items.json\ndiffers"), Problem("", "store", "gone")))
    behind = replace(ANN, address="a:4", live_bundle="b1", live_model="m1")
    assert find_faults([QUERY, silent]) == ["a:2 is unavailable"]
    assert find_faults([QUERY, empty]) == ["a:3 has no bundle open"]
    assert find_faults([QUERY, refusing]) == [
        "a:1 refused b3 at gate 'sha256': items.json differs",
        "a:1 has a problem with its store: gone",
    ]
    assert find_faults([QUERY, ANN, behind]) == [
        "a:4 answers from b1, and its store names b2",
        "the replicas differ in the live model: m1, m2",
        "the ANN replicas differ in the live bundle: b1, b2",
    ]
    assert find_faults([ANN, replace(behind, live_model="m2")]) == [
        "a:4 answers from b1, and its store names b2",
        "the ANN replicas differ in the live bundle: b1, b2",
    ]


def test_a_replica_that_still_loads_is_a_fault() -> None:
    loading = replace(ANN, store_bundle="b3", loading_bundle="b3")
    assert find_faults([replace(QUERY, store_bundle="b3", loading_bundle="b3"), loading]) == [
        "q:1 is still loading b3",
        "a:1 is still loading b3",
    ]
    # The live bundle answers, but the previous one is not open yet, so a roll back would have to wait.
    assert find_faults([QUERY, replace(ANN, open_bundles=("b2",), open_models=("m2",), loading_bundle="b1")]) == [
        "a:1 is still loading b1"
    ]


def test_a_replica_that_has_not_noticed_a_promotion_is_a_fault() -> None:
    noticed = replace(QUERY, store_bundle="b3", live_bundle="b3", live_model="m2")
    assert find_faults([noticed, ANN]) == ["the stores of the replicas differ in the live bundle: b2, b3"]
    assert find_faults([replace(QUERY, store_bundle=""), ANN]) == [
        "the stores of the replicas differ in the live bundle: none, b2"
    ]


def test_a_refused_bundle_is_one_fault() -> None:
    refusing = replace(ANN, store_bundle="b3", problems=(Problem("b3", "sha256", "items.json differs", 1_000),))
    assert find_faults([replace(QUERY, store_bundle="b3"), refusing]) == [
        "a:1 refused b3 at gate 'sha256': items.json differs"
    ]


def test_a_query_tower_is_ready_for_every_bundle_of_an_open_model() -> None:
    same_model = replace(ANN, open_bundles=("b3", "b2"), open_models=("m2", "m2"))
    assert find_ready([QUERY, same_model, ANN], "b3") == [QUERY, same_model]
    assert find_ready([QUERY, ANN], "b3") == []
    assert find_ready([replace(QUERY, open_bundles=("b1",), open_models=("m1",)), ANN], "b2") == [ANN]


def test_a_lagging_worker_determines_the_merged_status() -> None:
    lagging = replace(ANN, live_bundle="b1", live_model="m1", open_bundles=("b1",), open_models=("m1",))
    assert merge_workers([ANN, ANN]) == ANN
    # A bundle that one worker lacks is not open.
    merged = merge_workers([ANN, replace(lagging, loading_bundle="b2")])
    assert (merged.live_bundle, merged.open_bundles, merged.loading_bundle) == ("b1", ("b1",), "b2")
    # Here the lagging worker has not even read the new version from the store.
    merged = merge_workers([ANN, replace(lagging, store_bundle="b1")])
    assert (merged.open_bundles, merged.loading_bundle) == (("b1",), "b1")
    assert find_faults([merged]) == ["a:1 is still loading b1"]
    refusing = replace(ANN, problems=(Problem("b3", "sha256", "differs"),))
    assert merge_workers([ANN, refusing]).problems == (Problem("b3", "sha256", "differs"),)


def test_reaches_every_worker_behind_an_address(store: FolderStore, tmp_path: Path) -> None:
    bundle = write_bundle(store).bundle_version
    flags = ("--workers", "2", "--poll-interval-s", "0.02", "--drain-delay-s", "0")
    with process("ann_service", store, tmp_path, *flags) as (parent, port), Fleet(ann=[f"127.0.0.1:{port}"]) as fleet:
        wait_for(lambda: not find_faults(fleet.ask()), "both workers serve it")
        (replica,) = fleet.ask()
        assert (replica.error, replica.live_bundle) == ("", bundle)
        psutil.Process(parent.pid).children()[0].kill()
        wait_for(lambda: not find_faults(fleet.ask()), "the restarted worker serves it too")
        second = write_bundle(store).bundle_version
        wait_for(lambda: fleet.ask()[0].open_bundles == (second, bundle), "both workers serve the next bundle")


def test_workers_that_do_not_answer_are_a_fault(world: World) -> None:
    world.ann.worker_count = 3
    with Fleet(ann=[world.ann_address]) as fleet:
        (replica,) = fleet.ask()
    assert replica.error == f"1 of the 3 workers at {world.ann_address} answered; its log says why the others did not"


def test_reports_each_replica_separately(world: World) -> None:
    world.ann.problems = [("b2", "canaries", "recall 0.2, at least 0.9")]
    world.ann.loading = "b3"
    world.ann.store = "b3"
    with Fleet([world.query_tower_address], [world.ann_address, world.ann_address]) as fleet:
        query_tower, ann, again = fleet.ask()
    assert query_tower == Replica(
        "query_tower", world.query_tower_address, "", "b1", "b1", "m1", ("b1",), ("m1",), opened_at_ms=1_000
    )
    assert ann == Replica(
        "ann",
        world.ann_address,
        store_bundle="b3",
        live_bundle="b1",
        live_model="m1",
        open_bundles=("b1",),
        open_models=("m1",),
        loading_bundle="b3",
        problems=(Problem("b2", "canaries", "recall 0.2, at least 0.9"),),
        opened_at_ms=2_000,
    )
    assert again == ann
    assert len(world.ann.requests) == 2


def test_reports_the_problems_of_a_replica_that_is_not_serving(store: FolderStore) -> None:
    bundle = write_bundle(store)
    path = store.path(bundle.bundle_version) / "index.ann"
    path.write_bytes(path.read_bytes()[:-1])
    with ann_service(store) as service:
        service.wait_for_problem(bundle.bundle_version)
        assert service.health() == "NOT_SERVING"
        with Fleet(ann=[f"127.0.0.1:{service.port}"]) as fleet:
            (replica,) = fleet.ask()
    assert replica.error == ""
    assert [problem.bundle_version for problem in replica.problems] == [bundle.bundle_version]
    assert replica.problems[0].refused_at_ms > 0


def test_replicas_are_live_once_they_answer_from_the_bundle_of_their_stores() -> None:
    query = replace(QUERY, store_bundle="b2", live_bundle="b1", live_model="m1")
    ann = replace(ANN, store_bundle="b2", live_bundle="b2", open_bundles=("b2", "b1"), open_models=("m1", "m1"))
    assert find_live([query, ann]) == ("b2", [query, ann])  # the query tower has another bundle of the model
    assert find_live([query, replace(ann, live_bundle="b1")]) == ("b2", [query])
    assert find_live([replace(query, live_model="m0"), ann]) == ("b2", [ann])
    assert find_live([query, replace(ann, store_bundle="b3")]) == ("", [])
    assert find_live([replace(query, store_bundle=""), replace(ann, store_bundle="")]) == ("", [])
