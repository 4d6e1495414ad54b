"""Services run as processes: settings, signals, loaded libraries."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import grpc
import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import ROOT, process
from tests.worlds import wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2, ann_service_pb2_grpc
from two_tower.query.v1 import query_tower_service_pb2, query_tower_service_pb2_grpc

COMMANDS = [("query_tower_service", "two-tower-query-tower"), ("ann_service", "two-tower-ann")]


def run(*arguments: str, program: str = "query_tower_service", **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("program", ["query_tower_service", "ann_service"])
def test_help_lists_settings_and_environment_variables(program: str) -> None:
    done = run("--help", program=program)
    assert done.returncode == 0
    for name in ("--store", "--port", "--tls-certificate", "--poll-interval-s", "--unload-first", "--config"):
        assert name in done.stdout
    assert f"{program.upper()}_POLL_INTERVAL_S" in done.stdout
    assert "Store of bundles: a folder, or a URL" in done.stdout


def test_unusable_settings_end_the_process_with_a_reason(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('store = "x"\ncolour = "red"\n')
    for done, reason in (
        (run("--store", "x", "--threads", "0"), "threads is 0, expected 1 to 64"),
        (run("--store", "x", "--host", "0.0.0.0"), "--insecure"),
        (run("--store", "x", QUERY_TOWER_SERVICE_COLOUR="red"), "QUERY_TOWER_SERVICE_COLOUR"),
        (run("--store", "x", "--config", str(tmp_path / "absent.toml")), "absent.toml"),
        (run("--store", "x", "--token-file", str(tmp_path / "absent")), "token_file cannot be read"),
        (run("--config", str(config)), "colour"),
        (run(), "--store"),
    ):
        assert done.returncode != 0
        assert reason in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_flag_overrides_environment_which_overrides_file(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store)
    config = tmp_path / "config.toml"
    config.write_text("threads = 3\nmax_in_flight = 3\nmax_batch_size = 3\ndrain_delay_s = 0.0\n")
    os.environ["ANN_SERVICE_MAX_IN_FLIGHT"] = os.environ["ANN_SERVICE_MAX_BATCH_SIZE"] = "4"
    try:
        with process("ann_service", store, tmp_path, "--config", str(config), "--max-batch-size", "5") as (child, _):
            child.send_signal(signal.SIGTERM)
            assert child.wait(20) == 0
    finally:
        del os.environ["ANN_SERVICE_MAX_IN_FLIGHT"], os.environ["ANN_SERVICE_MAX_BATCH_SIZE"]
    lines = [json.loads(line) for line in (tmp_path / "ann_service.log").read_text().splitlines()]
    settings = next(line for line in lines if line["event"] == "settings")
    assert (settings["threads"], settings["max_in_flight"], settings["max_batch_size"]) == (3, 4, 5)
    assert settings["max_k"] == 1000


def test_finishes_calls_in_flight_after_sigterm(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store, item_count=4000)
    flags = ("--poll-interval-s", "0.02", "--drain-delay-s", "0.2")
    with (
        process("ann_service", store, tmp_path, *flags) as (child, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as ch,
    ):
        stub = ann_service_pb2_grpc.AnnServiceStub(ch)
        wait_for(
            lambda: stub.GetServingStatus(ann_service_pb2.GetServingStatusRequest(), timeout=10).bundles, "it serves"
        )
        search = ann_service_pb2.Search(embedding=ann_service_pb2.Embedding(values=[1.0] * 8), k=300, exact=True)
        request = ann_service_pb2.SearchItemsRequest(model_version=manifest.model_version, searches=[search] * 300)
        slow = stub.SearchItems.future(request, timeout=60)
        child.send_signal(signal.SIGTERM)
        assert len(slow.result(60).results) == 300
        assert child.wait(30) == 0
    events = [json.loads(line)["event"] for line in (tmp_path / "ann_service.log").read_text().splitlines()]
    assert events[-2:] == ["draining", "stopped"]


def test_second_signal_ends_the_process_at_once(store: FolderStore, tmp_path: Path) -> None:
    log = tmp_path / "query_tower_service.log"
    with process("query_tower_service", store, tmp_path, "--drain-delay-s", "600") as (child, _):
        child.send_signal(signal.SIGINT)
        wait_for(lambda: '"draining"' in log.read_text(), "it drains")
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 1


def test_neither_service_loads_tensorflow_and_both_stay_small(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    with (
        process("ann_service", store, tmp_path) as (ann, ann_port),
        process("query_tower_service", store, tmp_path) as (tower, tower_port),
    ):
        with grpc.insecure_channel(f"127.0.0.1:{tower_port}") as channel:
            query_stub = query_tower_service_pb2_grpc.QueryTowerServiceStub(channel)
            pb = query_tower_service_pb2
            wait_for(lambda: query_stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=10).models, "it serves")
            embedded = query_stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[pb.Query()]), timeout=10)
        with grpc.insecure_channel(f"127.0.0.1:{ann_port}") as channel:
            stub = ann_service_pb2_grpc.AnnServiceStub(channel)
            status = ann_service_pb2.GetServingStatusRequest()
            wait_for(lambda: stub.GetServingStatus(status, timeout=10).bundles, "it serves")
            target = ann_service_pb2.Embedding(values=embedded.embeddings[0].values)
            request = ann_service_pb2.SearchItemsRequest(
                model_version=embedded.model_version, searches=[ann_service_pb2.Search(embedding=target, k=3)]
            )
            found = stub.SearchItems(request, timeout=10)
        assert (len(found.results[0].item_ids), found.bundle_version) == (3, manifest.bundle_version)
        for child in (ann, tower):
            maps = Path(f"/proc/{child.pid}/maps").read_text()
            assert "numpy" in maps
            assert "tensorflow" not in maps
            resident_kib = next(
                int(line.split()[1])
                for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
                if line.startswith("VmRSS:")
            )
            assert resident_kib < 200 * 1024


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_the_installed_command_names_itself_and_states_the_version(
    program: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"{program}.__main__").main
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{command}", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == metadata.version("two-tower-retrieval")
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{command}", "--help"])
    assert main() == 0
    assert capsys.readouterr().out.startswith(f"Usage: {command} ")


@pytest.mark.parametrize("program", ["query_tower_service", "ann_service"])
def test_sets_grpc_experiments_before_grpc_is_imported(program: str) -> None:
    # A finder sees each module that is about to be loaded.
    script = f"""
import os, sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Watch)
import {program}.__main__
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    for given, expected in (({}, "-event_engine_listener"), ({"GRPC_EXPERIMENTS": "mine"}, "mine")):
        environment.pop("GRPC_EXPERIMENTS", None)
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_ends_nothing_and_the_new_token_is_valid_soon(store: FolderStore, tmp_path: Path, workers: str) -> None:
    write_bundle(store)
    tokens = tmp_path / "tokens"
    tokens.write_text("old\n")
    flags = ("--token-file", str(tokens), "--workers", workers, "--drain-delay-s", "0")
    with process("query_tower_service", store, tmp_path, *flags) as (child, port):
        tokens.write_text("new\n")
        child.send_signal(signal.SIGHUP)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = query_tower_service_pb2_grpc.QueryTowerServiceStub(channel)
            request = query_tower_service_pb2.GetServingStatusRequest()

            def accepts_the_new_token() -> bool:
                try:
                    return bool(stub.GetServingStatus(request, metadata=[("authorization", "Bearer new")], timeout=5))
                except grpc.RpcError:
                    return False

            wait_for(accepts_the_new_token, "the new token is valid")
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
