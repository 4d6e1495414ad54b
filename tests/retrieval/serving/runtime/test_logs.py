"""Lines of the log, and a reader of stderr that does not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from retrieval.serving.runtime.logs import MAX_BACKLOG
from retrieval.store.folder_store import FolderStore
from tests.harness import ROOT
from tests.worlds import wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
WRITES = """
import structlog
from retrieval.serving.runtime.logs import configure_logs
configure_logs("info")
for number in range(2000):
    structlog.get_logger("test").info("line", number=number, text="x" * 1000)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}


def test_every_line_is_written_before_the_process_ends() -> None:
    script = WRITES.replace("2000", "200")
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["number"] for line in lines] == list(range(200))


def test_lines_that_nobody_reads_are_lost_and_counted() -> None:
    script = WRITES + "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()  # all lines were taken, though nobody reads them
        numbers: list[int] = []
        lost = 0
        while len(numbers) + lost < 2000:
            line = json.loads(child.stderr.readline())
            if line["event"] == "line":
                numbers.append(line["number"])
            else:
                assert line["event"].startswith("log lines lost")
                lost += line["count"]
        child.kill()
    assert MAX_BACKLOG / 2000 < len(numbers) < 2000
    assert numbers == sorted(numbers)
    assert len(numbers) + lost == 2000


def test_a_reader_of_the_log_that_hangs_stops_no_call(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "ann_service", "--store", str(store.root), "--port", "0"]
    command += ["--port-file", str(port_file), "--log-level", "debug", "--drain-delay-s", "0"]
    child = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, cwd=tmp_path)
    try:
        wait_for(port_file.exists, "it listens")
        search = pb.Search(embedding=pb.Embedding(values=[1.0] * 8), k=1)
        request = pb.SearchItemsRequest(model_version=manifest.model_version, searches=[search])
        with grpc.insecure_channel(f"127.0.0.1:{port_file.read_text()}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            wait_for(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING, "it serves")
            stub = ann_service_pb2_grpc.AnnServiceStub(channel)
            for _ in range(600):  # each is a line, and a pipe holds 64 KiB
                assert len(stub.SearchItems(request, timeout=5).results) == 1
        child.terminate()
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.communicate()
