"""The query log: its content, its size limit, and requests that it neither blocks nor fails."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from query_tower_service.config import QueryTowerConfig
from query_tower_service.query_log import QueryLog, to_line
from retrieval.store.folder_store import FolderStore
from tests.harness import failure, process, query_tower_service
from tests.worlds import wait_for, write_bundle
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc

MAX_BYTES = 64 << 20


def query(age: float) -> pb.Query:
    return pb.Query(features={"age": pb.FeatureValues(floats=pb.FloatList(values=[age]))})


def line(age: float) -> str:
    return f'{{"features":{{"age":[{age:.1f}]}}}}'


def counts(registry: CollectorRegistry) -> tuple[float, dict[str, float]]:
    """Returns the lines written, and the drops by reason."""
    drops = {
        sample.labels["reason"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "two_tower_query_log_drops_total"
    }
    return registry.get_sample_value("two_tower_query_log_lines_total") or 0.0, drops


def total(registry: CollectorRegistry) -> float:
    written, drops = counts(registry)
    return written + sum(drops.values())


def test_the_service_records_the_features_of_answered_queries_and_nothing_else(
    store: FolderStore, tmp_path: Path
) -> None:
    manifest = write_bundle(store)
    path, token_file = tmp_path / "queries.jsonl", tmp_path / "token"
    token_file.write_text("s3cret\n")
    full = pb.Query(
        features={
            "age": pb.FeatureValues(floats=pb.FloatList(values=[24.5])),
            "device": pb.FeatureValues(ints=pb.IntList(values=[2**63 - 1])),
            "likes": pb.FeatureValues(strings=pb.StringList()),
            "watched": pb.FeatureValues(strings=pb.StringList(values=["i1", 'é"\n'])),
        }
    )
    unknown = pb.Query(features={"hue": pb.FeatureValues(ints=pb.IntList(values=[1]))})
    metadata = (("authorization", "Bearer s3cret"), ("x-user", "ada@example.org"))
    settings: dict[str, Any] = {"query_log": path, "query_log_share": 1.0, "token_file": token_file}
    with query_tower_service(store, **settings) as service:
        wait_for(lambda: service.health() == "SERVING", "a bundle is open")
        embed = service.stub.EmbedQueries
        request = pb.EmbedQueriesRequest(queries=[full, pb.Query()], model_version=manifest.model_version)
        embed(request, metadata=metadata, timeout=10)
        refused = pb.EmbedQueriesRequest(queries=[query(1), unknown])
        assert failure(embed, refused, metadata=metadata)[0] == "INVALID_ARGUMENT"
        assert failure(embed, request)[0] == "UNAUTHENTICATED"
        embed(pb.EmbedQueriesRequest(queries=[query(3)]), metadata=metadata, timeout=10)
        wait_for(lambda: path.exists() and path.read_text().count("\n") == 3, "three lines are written")
    assert path.read_text().splitlines() == [
        '{"features":{"age":[24.5],"device":[9223372036854775807],"likes":[],"watched":["i1","\\u00e9\\"\\n"]}}',
        '{"features":{}}',
        line(3),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_query_whose_answer_depends_on_its_time_is_recorded_with_it() -> None:
    stars = pb.FeatureValues(floats=pb.FloatList(values=[4.0, math.nan]))
    silent = pb.Query(features={"history.stars": stars})
    said = pb.Query(features={"request_time": pb.FeatureValues(ints=pb.IntList(values=[7]))})
    assert to_line(silent, 1e9) == b'{"features":{"history.stars":[4.0,null],"request_time":[1000000000.0]}}\n'
    assert to_line(said, 1e9) == b'{"features":{"request_time":[7]}}\n'
    assert to_line(silent) == b'{"features":{"history.stars":[4.0,null]}}\n'


def test_it_is_off_by_default(store: FolderStore) -> None:
    config = QueryTowerConfig(store=store.root)
    assert (config.query_log, config.query_log_share, config.query_log_max_bytes) == (None, 0.01, 67_108_864)


def test_a_service_keeps_answering_when_the_folder_is_removed(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    folder = tmp_path / "logs"
    folder.mkdir()
    with (
        capture_logs() as logs,
        query_tower_service(store, query_log=folder / "queries.jsonl", query_log_share=1.0) as service,
    ):
        service.wait_for_bundle(manifest.bundle_version)
        folder.rmdir()
        for age in range(20):
            response = service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[query(age)]), timeout=10)
            assert len(response.embeddings) == 1
        wait_for(lambda: [log for log in logs if log["log_level"] == "warning"], "the loss is logged")
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "No such file" in warnings[0]["why"]


def test_the_backlog_is_written_when_the_program_stops(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store)
    path = tmp_path / "queries.jsonl"
    flags = ("--drain-delay-s", "0", "--query-log", str(path), "--query-log-share", "1")
    with (
        process("query_tower_service", store, tmp_path, *flags) as (child, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = query_tower_service_pb2_grpc.QueryTowerServiceStub(channel)
        wait_for(lambda: stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=5).models, "the bundle answers")
        stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[query(age) for age in range(500)]), timeout=10)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    assert path.read_text().splitlines() == [line(age) for age in range(500)]


def test_a_share_of_0_records_nothing_and_a_share_of_1_everything(tmp_path: Path) -> None:
    for share, expected in ((0.0, []), (1.0, [line(age) for age in range(6)])):
        path = tmp_path / f"{share}.jsonl"
        log = QueryLog(path, share, MAX_BYTES, CollectorRegistry())
        log.record([query(age) for age in range(4)])
        log.record([])
        log.record([query(4)])
        log.record([query(5)])
        log.close()
        assert (path.read_text().splitlines() if path.exists() else []) == expected


def test_samples_the_share_for_any_batch_size(tmp_path: Path) -> None:
    random.seed(5)
    log = QueryLog(tmp_path / "queries.jsonl", 0.1, MAX_BYTES, CollectorRegistry())
    for first in range(0, 20_000, 100):
        log.record([query(age) for age in range(first, first + 90)])
        for age in range(first + 90, first + 100):
            log.record([query(age)])
    log.close()
    lines = (tmp_path / "queries.jsonl").read_text().splitlines()
    ages = [int(json.loads(text)["features"]["age"][0]) for text in lines]
    # Binomial of 20,000 and 0.1: 2,000 with a standard deviation of 42; and of the tenth sent one by one, 200 with 13.
    assert 1_800 < len(ages) < 2_200
    assert 140 < sum(age % 100 >= 90 for age in ages) < 260
    assert ages == sorted(set(ages))


def test_the_smallest_share_is_not_an_error(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "queries.jsonl", 5e-324, MAX_BYTES, CollectorRegistry())
    log.record([query(1)])
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_keeps_two_files_within_the_bound_with_the_newest_lines(tmp_path: Path) -> None:
    path, previous = tmp_path / "queries.jsonl", tmp_path / "queries.jsonl.1"
    path.write_text(f"{line(99)}\n")
    path.chmod(0o644)
    registry = CollectorRegistry()
    log = QueryLog(path, 1.0, 1024, registry)
    # A line of {"features":{"age":[10.0]}} and its end is 28 bytes long: 36 fit into 1,024 bytes.
    log.record([query(age) for age in range(10, 99)])
    log.close()
    # The first file takes the one that was there and 35 more, the second 36, the third the last 18.
    assert previous.read_text().splitlines() == [line(age) for age in range(45, 81)]
    assert path.read_text().splitlines() == [line(age) for age in range(81, 99)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, previous)} == {0o600}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["queries.jsonl", "queries.jsonl.1"]
    assert counts(registry) == (89.0, {})


def test_drops_a_line_that_no_file_can_hold(tmp_path: Path) -> None:
    path, registry = tmp_path / "queries.jsonl", CollectorRegistry()
    log = QueryLog(path, 1.0, 1024, registry)
    long = pb.Query(features={"watched": pb.FeatureValues(strings=pb.StringList(values=["i" * 1000, "i" * 1000]))})
    log.record([query(1), long, query(2)])
    log.close()
    assert path.read_text().splitlines() == [line(1), line(2)]
    assert counts(registry) == (2.0, {"size": 1.0})


def test_a_full_disk_leaves_complete_lines_and_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, registry = tmp_path / "queries.jsonl", CollectorRegistry()
    log = QueryLog(path, 1.0, 1024, registry)
    free_bytes = [60]
    write = os.write

    def write_to_a_full_disk(descriptor: int, data: bytes) -> int:
        if free_bytes[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: free_bytes[0]])
        free_bytes[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_to_a_full_disk)
    with capture_logs() as logs:
        for age in (10, 11, 12, 13):
            log.record([query(age)])
            # One after another, so that each line is written by itself.
            wait_for(lambda: total(registry) == age - 9, "the line is dealt with")  # noqa: B023
        log.close()
    assert len(logs) == 1
    assert "No space left" in logs[0]["why"]
    monkeypatch.undo()
    # Two lines of 28 bytes fit into 60; the third is cut off again after 4.
    assert path.read_text().splitlines() == [line(10), line(11)]
    assert counts(registry) == (2.0, {"disk": 2.0})


def test_a_disk_that_hangs_blocks_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    log = QueryLog(tmp_path / "queries.jsonl", 1.0, MAX_BYTES, registry)
    released, hanging = threading.Event(), threading.Event()
    append = log._append

    def hang(lines: list[bytes]) -> int:
        hanging.set()
        released.wait(20)
        return append(lines)

    monkeypatch.setattr(log, "_append", hang)
    log.record([query(1)])
    assert hanging.wait(20)
    text = "i" * (1 << 20)
    million = pb.Query(features={"watched": pb.FeatureValues(strings=pb.StringList(values=[text]))})
    log.record([million] * 6)  # 3 of a little over 1 MiB fit into 4 MiB
    assert counts(registry) == (0.0, {"backlog": 3.0})
    released.set()
    log.close()
    assert counts(registry) == (4.0, {"backlog": 3.0})


def test_a_closed_log_records_and_raises_nothing(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    log = QueryLog(tmp_path / "queries.jsonl", 1.0, MAX_BYTES, registry)
    log.close()
    log.record([query(1)])
    assert counts(registry) == (0.0, {"closed": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_log_share": 1.5}, "query_log_share is 1.5, expected 0 to 1"),
        ({"query_log_max_bytes": 10}, "query_log_max_bytes is 10, expected 1024 to 1099511627776"),
        ({"port": 70_000}, "port is 70000, expected 0 to 65535"),
    ],
)
def test_refuses_settings_out_of_range(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryTowerConfig(store=tmp_path, **settings)


def test_refuses_a_path_that_cannot_be_a_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its folder does not exist; make it first"):
        QueryLog(tmp_path / "no" / "queries.jsonl", 1.0, MAX_BYTES, CollectorRegistry())
    with pytest.raises(ValueError, match="is not a regular file; name another one"):
        QueryLog(tmp_path, 1.0, MAX_BYTES, CollectorRegistry())
