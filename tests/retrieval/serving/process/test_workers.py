"""Several worker processes on one port: start, death, swap, drain, and ports in use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import structlog

from query_tower_service.config import QueryTowerConfig
from retrieval.serving.process.worker_link import decode_settings, encode_settings
from retrieval.serving.process.workers import Workers, reserve_port
from retrieval.serving.runtime.config import ServerConfig
from retrieval.store.folder_store import FolderStore
from tests.harness import ROOT, process
from tests.retrieval.serving.process.test_program import run
from tests.retrieval.serving.traffic import Caller
from tests.worlds import unit_vectors, wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2, ann_service_pb2_grpc

FLAGS = ("--workers", "2", "--poll-interval-s", "0.02", "--drain-delay-s", "0")


def workers_of(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(parent.pid).children()


@contextmanager
def traffic(callers: list[Caller]) -> Iterator[None]:
    """Runs callers, and fails if one got a wrong answer or an error."""
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        for caller in callers:
            caller.ended.set()
        for caller in callers:
            caller.join(20)
    assert [caller.wrong for caller in callers] == [[] for _ in callers]


def wait_for_answers(callers: list[Caller], answers: int = 20) -> None:
    reached = [caller.answered + answers for caller in callers]
    wait_for(
        lambda: all(c.wrong or c.answered >= r for c, r in zip(callers, reached, strict=True)),
        "callers get further answers",
    )


def test_workers_of_an_installed_command_import_nothing_from_the_current_folder(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "structlog.py").write_text("raise SystemExit('imported from the current folder')")
    # As an installed command does, this parent does not search the current folder; -P would reach the workers too.
    script = "import sys; sys.path.remove(''); import ann_service.__main__ as program; sys.exit(program.main())"
    port_file = tmp_path / "port"
    command = [sys.executable, "-c", script, "--store", str(store.root), "--port", "0", "--port-file", str(port_file)]
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'clients'}")
    write_bundle(store)
    with subprocess.Popen([*command, *FLAGS], cwd=tmp_path) as parent:
        wait_for(lambda: port_file.exists() or parent.poll() is not None, "the workers listen")
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0


def test_no_request_fails_or_mixes_bundles_while_two_workers_swap_independently(
    store: FolderStore, tmp_path: Path
) -> None:
    first = write_bundle(store)
    expected = {first.bundle_version: unit_vectors(300, 1)}
    with (
        process("query_tower_service", store, tmp_path, *FLAGS) as (_, tower_port),
        process("ann_service", store, tmp_path, *FLAGS) as (_, ann_port),
    ):
        callers = [Caller(tower_port, ann_port, expected, connections=4) for _ in range(3)]
        with traffic(callers):
            wait_for_answers(callers)
            for number in range(2, 8):
                expected_vectors = unit_vectors(300, number)
                manifest = write_bundle(store, seed=1 + number % 2, catalogue_seed=number, promote=False)
                expected[manifest.bundle_version] = expected_vectors
                store.promote(manifest.bundle_version)
                wait_for_answers(callers)


def test_killed_worker_loses_no_request_and_is_started_again(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    with (
        process("query_tower_service", store, tmp_path, *FLAGS) as (tower, tower_port),
        process("ann_service", store, tmp_path, *FLAGS) as (ann, ann_port),
    ):
        callers = [
            Caller(tower_port, ann_port, {manifest.bundle_version: unit_vectors(300, 1)}, connections=4)
            for _ in range(2)
        ]
        with traffic(callers):
            wait_for_answers(callers)
            for parent in (tower, ann):
                victim, other = workers_of(parent)
                victim.kill()
                wait_for(
                    lambda parent=parent, other=other: len({w.pid for w in workers_of(parent)} | {other.pid}) == 2,
                    "a second worker runs again",
                )
                assert other.is_running()
                wait_for_answers(callers)
    ended = [line for line in read_log(tmp_path / "ann_service.log") if line["event"] == "worker ended"]
    assert [(line["exit_code"], line["starts_again_in_s"]) for line in ended] == [(-9, 0.1)]


def test_all_workers_finish_calls_in_flight_after_sigterm_to_the_parent(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store, item_count=4000)
    flags = (*FLAGS[:-1], "0.5")  # time for the sent requests to arrive
    with process("ann_service", store, tmp_path, *flags) as (parent, port):
        search = ann_service_pb2.Search(embedding=ann_service_pb2.Embedding(values=[1.0] * 8), k=300, exact=True)
        request = ann_service_pb2.SearchItemsRequest(model_version=manifest.model_version, searches=[search] * 300)
        channels = [
            grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(6)
        ]
        slow = [
            ann_service_pb2_grpc.AnnServiceStub(channel).SearchItems.future(request, timeout=60) for channel in channels
        ]
        for channel in channels:
            grpc.channel_ready_future(channel).result(20)
        wait_for(lambda: any(future.done() for future in slow), "the first answer is in")
        parent.send_signal(signal.SIGTERM)
        assert [len(future.result(60).results) for future in slow] == [300] * 6
        assert parent.wait(30) == 0
        for channel in channels:
            channel.close()
    stopped = [line for line in read_log(tmp_path / "ann_service.log") if line["event"] == "stopped"]
    assert sorted(line.get("worker", 0) for line in stopped) == [0, 1, 2]
    assert stopped[-1]["exit_code"] == 0


def test_pinned_workers_use_one_core_each_except_to_load_bundles(store: FolderStore, tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    with process("ann_service", store, tmp_path, *FLAGS, "--pin") as (parent, _):
        pinned_to: list[set[int]] = []
        for worker in workers_of(parent):
            threads = [os.sched_getaffinity(thread.id) for thread in worker.threads()]
            assert all(len(cores) == 1 or cores == allowed for cores in threads)  # all cores: a thread that loads
            assert sum(len(cores) == 1 for cores in threads) > len(threads) / 2
            pinned_to.append(os.sched_getaffinity(worker.pid))
        assert os.sched_getaffinity(parent.pid) == allowed
    assert [len(cores) for cores in pinned_to] == [1, 1]
    assert len(set.union(*pinned_to)) == min(2, len(allowed))


def test_workers_are_pinned_by_default_only_if_the_quota_covers_all_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings: dict[str, Any]
    for settings, seen, pins in (
        ({"workers": "auto"}, 4, True),
        ({"workers": "auto"}, 64, False),  # a quota
        ({"workers": "auto", "pin": False}, 4, False),
        ({"workers": 4}, 4, False),
        ({"workers": 4, "pin": True}, 64, True),
    ):
        monkeypatch.setattr("retrieval.serving.runtime.cores._ALLOWED", frozenset(range(seen)))
        monkeypatch.setattr("retrieval.serving.runtime.cores.available_cores", lambda: 4)
        monkeypatch.setattr("retrieval.serving.runtime.config.available_cores", lambda: 4)
        config = ServerConfig(store=tmp_path, **settings)
        assert (config.pins, config.for_worker(1, 4711).pins) == (pins, pins)
    monkeypatch.setattr("retrieval.serving.runtime.config.available_cores", lambda: 1)
    # One configuration works on machines of every size, also on one core.
    assert not ServerConfig(store=tmp_path, workers="auto", pin=True).pins
    with pytest.raises(ValueError, match="pin needs several workers"):
        ServerConfig(store=tmp_path, pin=True)


def test_second_signal_ends_all_workers_at_once(store: FolderStore, tmp_path: Path) -> None:
    log = tmp_path / "ann_service.log"
    with process("ann_service", store, tmp_path, "--workers", "2", "--drain-delay-s", "600") as (parent, _):
        workers = workers_of(parent)
        parent.send_signal(signal.SIGINT)
        wait_for(lambda: log.read_text().count('"draining"') == 2, "both drain")
        parent.send_signal(signal.SIGINT)
        assert parent.wait(20) == 1
        assert not [worker for worker in workers if worker.is_running()]


def test_workers_end_when_the_parent_is_killed(store: FolderStore, tmp_path: Path) -> None:
    with process("ann_service", store, tmp_path, *FLAGS) as (parent, _):
        workers = workers_of(parent)
        assert len(workers) == 2
        parent.kill()
        wait_for(lambda: not any(worker.is_running() for worker in workers), "both have ended")
    stopped = [line for line in read_log(tmp_path / "ann_service.log") if line["event"] == "stopped"]
    assert sorted(line["worker"] for line in stopped) == [1, 2]


@pytest.mark.parametrize("shares", [0, 1])
def test_refuses_a_port_in_use_even_if_its_owner_shares_it(tmp_path: Path, shares: int) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        done = run("--store", str(tmp_path), "--workers", "2", "--port", str(port), program="ann_service")
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another --port" in done.stderr


def test_two_parents_cannot_use_one_port(store: FolderStore, tmp_path: Path) -> None:
    with process("ann_service", store, tmp_path, *FLAGS) as (_, port):
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}"):
            reserve_port("127.0.0.1", port)
        done = run("--store", str(store.root), "--port", str(port), program="ann_service")
    assert done.returncode == 2
    assert "cannot listen" in done.stderr


def test_parent_exits_with_two_if_no_worker_can_use_its_settings(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    done = run("--store", str(tmp_path), "--workers", "2", "--port", "0", "--token-file", str(absent))
    assert done.returncode == 2
    assert "token_file cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_pause_doubles_while_a_worker_keeps_ending(tmp_path: Path) -> None:
    config = ServerConfig(store=tmp_path, workers=1)
    wakes, signals = socket.socketpair()
    with wakes, signals, structlog.testing.capture_logs() as logs:

        def pauses() -> list[float]:
            return [line["starts_again_in_s"] for line in logs if line["event"] == "worker ended"]

        def stop() -> None:
            wait_for(lambda: len(pauses()) == 4, "four ends")
            signals.send(b"\x0f")

        stopper = threading.Thread(target=stop)
        stopper.start()
        # The program ends by itself, like one that crashes; no worker runs when the signal comes: the exit code is 0.
        assert Workers([sys.executable, "-c", "raise SystemExit(3)"], config).run(wakes) == 0
        stopper.join()
    assert pauses() == [0.1, 0.2, 0.4, 0.8]


def test_each_worker_has_its_own_metrics_port_and_query_log(tmp_path: Path) -> None:
    config = QueryTowerConfig(
        store=tmp_path, workers=3, metrics_port=9100, query_log=tmp_path / "queries.jsonl", port_file=tmp_path / "port"
    )
    second = config.for_worker(2, 4711)
    assert (second.worker, second.workers, second.port, second.port_file) == (2, 3, 4711, None)
    assert (second.metrics_port, second.query_log) == (9101, tmp_path / "queries-2.jsonl")
    assert decode_settings(encode_settings(second), QueryTowerConfig) == second


def test_refuses_worker_counts_out_of_range(tmp_path: Path) -> None:
    settings: dict[str, Any]
    for settings, reason in (
        ({"workers": 0}, "workers is 0, expected 1 to 256"),
        ({"workers": 3, "metrics_port": 65534}, "need ports up to 65536; choose one that is at most 65533"),
    ):
        with pytest.raises(ValueError, match=reason):
            ServerConfig(store=tmp_path, **settings)


def test_worker_number_is_not_a_setting(tmp_path: Path) -> None:
    assert run("--store", str(tmp_path), "--worker", "1").returncode != 0
    done = run("--store", str(tmp_path), QUERY_TOWER_SERVICE_WORKER="1")
    assert (done.returncode, "no setting is named QUERY_TOWER_SERVICE_WORKER" in done.stderr) == (2, True)


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
