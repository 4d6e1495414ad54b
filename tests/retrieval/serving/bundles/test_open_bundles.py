"""`OpenBundles` with a store on disk, and an opener that the test controls."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.errors import BundleRefused
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.folder_store import FolderStore
from tests.worlds import wait_for

A, B, C, D = (f"2026010{day}T000000Z-00000{day}" for day in (1, 2, 3, 4))


class Bundle:
    def __init__(self, version: str) -> None:
        self.version = version


class Opener:
    """Opens a bundle when its gate, if it has one, is set; raises its fault, if it has one."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.started: list[str] = []

    def __call__(self, version: str, beside: Collection[str]) -> Bundle:
        self.started.append(version)
        if version in self.gates:
            assert self.gates[version].wait(20)
        if version in self.faults:
            raise self.faults[version]
        self.opened.append(version)
        return Bundle(version)


class World:
    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.opener = Opener()
        self.metrics = Metrics()
        config = ServerConfig(store=folder, **{"poll_interval_s": 0.01, "retry_after_s": 3600, **settings})
        self.open_bundles: OpenBundles[Bundle] = OpenBundles(FolderStore(folder), self.opener, config, self.metrics)
        self.snapshots: list[Snapshot[Bundle]] = []

    def point(self, *versions: str) -> None:
        temporary = self.folder / "LIVE.new"
        temporary.write_text("\n".join(versions))
        temporary.replace(self.folder / "LIVE")

    def open(self) -> list[str]:
        return [open_bundle.version for open_bundle in self.open_bundles.snapshot.open]

    def wait_open(self, *versions: str) -> None:
        wait_for(lambda: self.open() == list(versions), f"{versions} are open")

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.open_bundles.stop()


def test_opens_the_live_bundle_and_the_previous_one(world: World) -> None:
    world.point(B, A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(B, A)
    assert world.opener.opened == [B, A]
    assert world.open_bundles.snapshot.live_version == B


def test_every_snapshot_is_reported_in_order(world: World) -> None:
    world.open_bundles.start(world.snapshots.append)
    wait_for(lambda: world.snapshots, "the first snapshot, of an empty store, is reported")
    world.point(A)
    world.wait_open(A)
    wait_for(lambda: [s.version for s in world.snapshots[-1].open] == [A], "the last one is reported")
    assert [len(snapshot.open) for snapshot in world.snapshots][-1] == 1
    assert [p.gate for p in world.snapshots[0].problems] == ["live"]
    assert not world.snapshots[-1].problems


def test_roll_back_during_a_slow_load_is_immediate(world: World) -> None:
    world.point(B, A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(B, A)
    world.opener.gates[C] = threading.Event()
    world.point(C, B)
    wait_for(lambda: world.open_bundles.snapshot.loading_version == C, "C loads")
    world.point(A)
    wait_for(lambda: world.open()[0] == A, "A answers while C still loads")
    assert world.open_bundles.snapshot.loading_version == C
    world.opener.gates[C].set()
    wait_for(lambda: not world.open_bundles.snapshot.loading_version, "C is done")
    assert C not in world.open()


def test_retired_bundle_is_freed_with_its_last_request(tmp_path: Path) -> None:
    world = World(tmp_path / "store", retire_after_s=0)
    world.point(A)
    world.open_bundles.start(lambda snapshot: None)
    world.wait_open(A)
    request = world.open_bundles.snapshot.open[0].bundle
    gone = weakref.ref(request)
    world.point(C, B)
    world.wait_open(C, B)
    assert request.version == A
    del request
    gc.collect()
    assert gone() is None
    world.open_bundles.stop()


def test_keeps_the_old_bundle_and_reports_gate_and_time_when_the_new_one_is_refused(world: World) -> None:
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    world.opener.faults[B] = BundleRefused(B, "sha256", "found this, expected that")
    world.point(B, A)
    [problem] = wait_for(lambda: world.open_bundles.snapshot.problems, "B is refused")
    assert (problem.version, problem.gate, problem.message) == (B, "sha256", "found this, expected that")
    assert problem.refused_at_ms > 1_700_000_000_000
    assert world.open() == [A]
    assert world.value("two_tower_bundle_refusals_total", gate="sha256") == 1
    world.point(C, A)
    world.wait_open(C, A)
    assert not world.open_bundles.snapshot.problems


def test_reports_an_unexpected_load_error_and_keeps_watching(world: World) -> None:
    world.opener.faults[A] = ZeroDivisionError("surprise")
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    [problem] = wait_for(lambda: world.open_bundles.snapshot.problems, "A is refused")
    assert (problem.gate, "surprise" in problem.message) == ("error", False)
    world.point(B)
    world.wait_open(B)


def test_reports_an_unexpected_poll_error_and_keeps_watching(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "live", lambda self: 1 / 0)
    world.open_bundles.start(world.snapshots.append)
    [problem] = wait_for(lambda: world.open_bundles.snapshot.problems, "the error is reported")
    assert problem.gate == "error"
    monkeypatch.undo()
    world.point(A)
    world.wait_open(A)


def test_refused_bundle_is_not_tried_in_a_loop(tmp_path: Path) -> None:
    world = World(tmp_path / "store", retry_after_s=0.2)
    world.opener.faults[A] = BundleRefused(A, "size", "half of it")
    world.point(A)
    world.open_bundles.start(lambda snapshot: None)
    wait_for(lambda: len(world.opener.started) == 3, "the second retry")
    # Retries wait 0.2 s, then 0.4 s: many polls later there is none yet.
    assert len(world.opener.started) == 3
    del world.opener.faults[A]
    world.wait_open(A)
    world.open_bundles.stop()


def test_pause_before_a_retry_grows_only_with_further_tries(tmp_path: Path) -> None:
    world = World(tmp_path / "store", retry_after_s=3600.0)
    world.opener.faults[B] = BundleRefused(B, "size", "half of it")
    world.point(B, A)
    world.open_bundles.start(lambda snapshot: None)
    world.wait_open(A)  # loaded after B was refused, while B waits for its first retry
    world.open_bundles.stop()
    assert world.open_bundles._timers.retry_delay == {B: 3600.0}


def test_unload_first_has_no_open_bundle_while_the_new_one_loads(tmp_path: Path) -> None:
    world = World(tmp_path / "store", unload_first=True)
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    world.opener.gates[B] = threading.Event()
    world.point(B, A)
    wait_for(lambda: world.opener.started == [A, B], "B loads")
    assert world.open() == []
    world.opener.gates[B].set()
    world.wait_open(B)
    world.open_bundles.stop()


def test_swaps_are_counted_and_timed(world: World) -> None:
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    world.point(B, A)
    world.wait_open(B, A)
    wait_for(lambda: world.value("two_tower_swap_seconds_count") == 2, "two swaps are timed")
    assert world.value("two_tower_bundle_loads_total") == 2
    assert world.value("two_tower_open_bundles") == 2
    assert world.value("two_tower_live_bundle_info", bundle_version=B) == 1


def test_every_snapshot_during_many_swaps_has_an_open_bundle(world: World) -> None:
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    for number in range(30):
        world.point(*((B, A) if number % 2 else (A, B)))
        wait_for(lambda number=number: world.open()[0] == (B if number % 2 else A), "it swaps")
    assert all(snapshot.open for snapshot in world.snapshots[-25:])
    assert world.opener.opened == [A, B]
