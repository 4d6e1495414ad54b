"""A store that hangs, fails or vanishes: it shows, nothing else stops, and all goes on once it answers.

Opening a FIFO to read blocks until somebody opens it to write, as a read of a dead mount does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from retrieval.store.folder_store import FolderStore
from tests.harness import ann_service, process
from tests.retrieval.serving.bundles.test_open_bundles import A, B, World
from tests.worlds import wait_for, write_bundle


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store", store_timeout_s=0.05)
    yield world
    world.open_bundles.stop()


def hang(path: Path) -> None:
    """Puts a FIFO in the place of a file, in one step."""
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    fifo.replace(path)


def answer(path: Path, content: str) -> None:
    """Puts a file in the place of a FIFO, then lets the read that hangs in the FIFO get the same content."""
    aside = path.with_name("aside")
    os.link(path, aside)
    new = path.with_name("new")
    new.write_text(content)
    new.replace(path)
    aside.write_text(content)
    aside.unlink()


def gates(world: World) -> list[str]:
    return [problem.gate for problem in world.open_bundles.snapshot.problems]


def polls() -> int:
    return sum(thread.name == "poll-store" for thread in threading.enumerate())


def test_poll_that_hangs_shows_once_and_polling_goes_on_when_it_returns(world: World) -> None:
    hang(world.folder / "LIVE")
    polling_before = polls()
    with capture_logs() as logs:
        world.open_bundles.start(world.snapshots.append)
        [problem] = wait_for(lambda: world.open_bundles.snapshot.problems, "the hang is noticed")
        assert (problem.version, problem.gate) == ("", "store")
        assert f"reading {world.folder / 'LIVE'} has made no progress for 0.05 s" in problem.message
        assert world.value("two_tower_store_reachable") == 0
        assert world.value("two_tower_store_last_read_timestamp_seconds") == 0
        checked = world.open_bundles._store_watch.next_check_s
        wait_for(lambda: world.open_bundles._store_watch.next_check_s > checked + 0.2, "it is checked a few times more")
        assert polls() - polling_before == 1
        answer(world.folder / "LIVE", f"{A}\n")
        world.wait_open(A)
        wait_for(lambda: not gates(world), "the problem is gone")
    assert world.value("two_tower_store_reachable") == 1
    assert world.value("two_tower_store_faults_total", kind="hung_read") == 1
    assert abs((world.value("two_tower_store_last_read_timestamp_seconds") or 0) - time.time()) < 60
    assert len([entry for entry in logs if "no progress" in entry.get("message", "")]) == 1


def test_open_bundle_answers_and_stops_while_a_poll_hangs(world: World) -> None:
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    hang(world.folder / "LIVE")
    wait_for(lambda: gates(world) == ["store"], "the hang is noticed")
    assert world.open() == [A]
    world.open_bundles.stop()
    assert not world.open_bundles._thread.is_alive()
    assert polls() >= 1  # still hangs, and nobody waited for it
    answer(world.folder / "LIVE", f"{A}\n")


def test_load_that_does_not_end_shows_and_is_used_when_it_ends(tmp_path: Path) -> None:
    world = World(tmp_path / "store", load_timeout_s=0.05)
    world.opener.gates[B] = threading.Event()
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    world.point(B, A)
    [problem] = wait_for(lambda: world.open_bundles.snapshot.problems, "the load is noticed")
    assert (problem.version, problem.gate) == ("", "store")
    assert f"loading {world.folder / 'bundles' / B} has not ended for 0.05 s" in problem.message
    assert world.value("two_tower_store_faults_total", kind="hung_load") == 1
    assert world.value("two_tower_bundle_wanted_info", bundle_version=B) == 1
    assert world.value("two_tower_bundle_loading_info", bundle_version=B) == 1
    assert world.value("two_tower_live_bundle_info", bundle_version=A) == 1
    world.opener.gates[B].set()
    world.wait_open(B, A)
    wait_for(lambda: not gates(world), "the problem is gone")
    assert world.value("two_tower_live_bundle_info", bundle_version=B) == 1
    assert world.value("two_tower_bundle_loading_info", bundle_version="") == 1
    world.open_bundles.stop()


def test_pointer_that_is_damaged_or_gone_shows_and_changes_nothing_else(world: World) -> None:
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    (world.folder / "LIVE").write_text("rubbish")
    wait_for(lambda: world.value("two_tower_store_faults_total", kind="unreadable"), "the damage is noticed")
    (world.folder / "LIVE").unlink()
    wait_for(lambda: world.value("two_tower_store_faults_total", kind="vanished"), "the loss is noticed")
    assert (gates(world), world.open()) == (["store"], [A])
    assert world.value("two_tower_store_reachable") == 0
    world.point(A)
    wait_for(lambda: not gates(world), "the problem is gone")
    assert world.value("two_tower_store_reachable") == 1


def test_store_without_a_live_bundle_is_reachable(world: World) -> None:
    world.open_bundles.start(world.snapshots.append)
    wait_for(lambda: gates(world) == ["live"], "the store is read")
    assert world.value("two_tower_store_reachable") == 1


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_jump_of_the_clock_moves_no_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: int) -> None:
    world = World(tmp_path / "store", retire_after_s=3600.0)
    world.point(A)
    world.open_bundles.start(world.snapshots.append)
    world.wait_open(A)
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + jump_s * 1_000_000_000)
    world.point(B)
    world.wait_open(B, A)  # A is in its hour of grace
    world.point(A)
    wait_for(lambda: world.open() == [A, B], "it rolls back")
    assert world.opener.opened == [A, B]
    assert world.value("two_tower_store_reachable") == 1
    world.open_bundles.stop()


def test_manifest_that_hangs_shows_in_the_status_and_its_bundle_opens_later(store: FolderStore) -> None:
    old = write_bundle(store)
    with ann_service(store, store_timeout_s=0.05) as service:
        service.wait_for_bundle(old.bundle_version)
        new = write_bundle(store, catalogue_seed=2, promote=False)
        path = store.path(new.bundle_version) / "manifest.json"
        content = path.read_text()
        hang(path)
        (store.root / "LIVE.new").write_text(f"{new.bundle_version}\n{old.bundle_version}\n")
        (store.root / "LIVE.new").replace(store.root / "LIVE")
        problem = service.wait_for_problem("")
        assert problem.gate == "store"
        assert str(path) in problem.message
        assert service.health() == "SERVING"
        assert service.status().loading_bundle_version == new.bundle_version
        answer(path, content)
        service.wait_for_bundle(new.bundle_version)
        wait_for(lambda: not service.status().problems, "the problem is gone")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_ends_in_order_while_the_store_hangs(store: FolderStore, tmp_path: Path, workers: str) -> None:
    store.root.mkdir(exist_ok=True)
    hang(store.root / "LIVE")
    flags = ("--store-timeout-s", "0.05", "--drain-delay-s", "0", "--workers", workers)
    with process("ann_service", store, tmp_path, *flags) as (child, _):
        wait_for(lambda: "no progress" in (tmp_path / "ann_service.log").read_text(), "the hang is logged")
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
