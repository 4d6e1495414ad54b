"""Faults of processes, files and machines around running services, as clients of this project see them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import process
from tests.worlds import wait_for, write_bundle
from two_tower_client import Search
from two_tower_client.ann import AnnClient
from two_tower_client.errors import TwoTowerError, Unavailable
from two_tower_client.rpc.channel import Tls

FLAGS = ("--poll-interval-s", "0.02", "--drain-delay-s", "0")
SEARCH = Search(similar_to=["i1"], k=3)


def reads(log: Path, event: str) -> list[dict[str, object]]:
    """Returns the lines of a log that have an event."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def answers(client: AnnClient, timeout_s: float = 5.0) -> bool:
    try:
        return len(client.search([SEARCH], timeout_s=timeout_s).retrievals[0].item_ids) == 3
    except TwoTowerError:
        return False


def test_calls_to_a_frozen_replica_are_answered_by_another_and_it_takes_part_again_later(
    store: FolderStore, tmp_path: Path
) -> None:
    write_bundle(store)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with (
        process("ann_service", store, folders[0], *FLAGS, "--log-level", "debug") as (frozen, first),
        process("ann_service", store, folders[1], *FLAGS) as (_, second),
        AnnClient([f"127.0.0.1:{first}", f"127.0.0.1:{second}"]) as client,
    ):
        wait_for(lambda: all(answers(client) for _ in range(10)), "both answer")
        frozen.send_signal(signal.SIGSTOP)
        # Every second call goes to the frozen replica first, and an eighth of its timeout later to the other.
        assert all(answers(client) for _ in range(10))

        def is_quick() -> bool:
            began = time.monotonic()
            return all(answers(client, 2.0) for _ in range(5)) and time.monotonic() - began < 0.25

        wait_for(is_quick, "no call goes to the frozen replica", 40)
        frozen.send_signal(signal.SIGCONT)
        log = folders[0] / "ann_service.log"
        before = len(reads(log, "call answered"))

        def takes_part() -> bool:
            assert all(answers(client) for _ in range(20))
            return len(reads(log, "call answered")) > before + 5

        wait_for(takes_part, "both answer again", 40)


def test_an_index_truncated_under_its_map_costs_one_worker_start(store: FolderStore, tmp_path: Path) -> None:
    old = write_bundle(store, item_count=20_000)
    new = write_bundle(store, item_count=20_000, catalogue_seed=2)
    with (
        process("ann_service", store, tmp_path, *FLAGS, "--workers", "2") as (_, port),
        AnnClient(f"127.0.0.1:{port}", connections=4) as client,
    ):
        wait_for(lambda: answers(client), "it serves")
        for name in ("index.ann", "vectors.npy"):
            os.truncate(store.path(new.bundle_version) / name, 4096)

        def answered_by() -> str:
            """Reads all of the index and the vectors: a worker that still maps them is ended by SIGBUS."""
            searches = [Search(similar_to=[f"i{number}"], k=100, exact=True) for number in range(0, 20_000, 400)]
            with suppress(TwoTowerError):
                return client.search(searches, timeout_s=5).bundle_version
            return ""

        wait_for(lambda: {answered_by() for _ in range(20)} == {old.bundle_version}, "the bundle before answers", 40)
    ended = reads(tmp_path / "ann_service.log", "worker ended")
    assert {line["exit_code"] for line in ended} == {-signal.SIGBUS}
    refused = reads(tmp_path / "ann_service.log", "bundle refused")
    assert {(line["bundle"], line["gate"]) for line in refused} == {(new.bundle_version, "size")}


def test_at_the_limit_of_descriptors_open_connections_and_bundles_go_on(store: FolderStore, tmp_path: Path) -> None:
    old = write_bundle(store)
    with (
        process("ann_service", store, tmp_path, *FLAGS, "--retry-after-s", "0.2") as (child, port),
        AnnClient(f"127.0.0.1:{port}") as client,
    ):
        wait_for(lambda: answers(client), "it serves")
        own = psutil.Process(child.pid)
        before = own.rlimit(resource.RLIMIT_NOFILE)
        limit = own.num_fds() + 3
        own.rlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        others = [
            grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(20)
        ]
        ready = [grpc.channel_ready_future(channel) for channel in others]
        wait_for(lambda: own.num_fds() >= limit, "all descriptors are used")
        new = write_bundle(store, catalogue_seed=2)
        for _ in range(50):
            assert answers(client)
        assert client.search([SEARCH]).bundle_version == old.bundle_version
        for future, channel in zip(ready, others, strict=True):
            future.cancel()
            channel.close()
        own.rlimit(resource.RLIMIT_NOFILE, before)
        wait_for(lambda: client.search([SEARCH]).bundle_version == new.bundle_version, "the new bundle answers", 40)
        with AnnClient(f"127.0.0.1:{port}", connections=2) as late:
            wait_for(lambda: answers(late), "new connections are accepted again")


def test_a_storm_of_short_deadlines_leaves_nothing_behind(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store, item_count=20_000)
    with (
        process("ann_service", store, tmp_path, *FLAGS) as (_, port),
        AnnClient(f"127.0.0.1:{port}") as client,
        AnnClient(f"127.0.0.1:{port}", own_connection=True) as stormy,
        ThreadPoolExecutor(32) as threads,
    ):
        wait_for(lambda: answers(client), "it serves")

        def hurried(_: int) -> str:
            try:
                stormy.search([SEARCH], timeout_s=0.002, wait=False)
            except TwoTowerError as error:
                return type(error).__name__
            return "answered"

        outcomes = Counter(threads.map(hurried, range(2000)))
        assert outcomes["DeadlineExceeded"] > 100
        # A client no longer counts calls that it gave up, so the service may refuse its next stream: Unavailable.
        assert set(outcomes) <= {"answered", "DeadlineExceeded", "Overloaded", "Unavailable"}
        wait_for(lambda: all(answers(client, 0.5) for _ in range(20)), "others are answered in time", 5)


def certificate(folder: Path, start: str, end: str) -> tuple[bytes, bytes]:
    """Returns a key and a self-signed certificate for 127.0.0.1 with a time of validity, PEM."""
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=p\nunique_subject=no\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=IP:127.0.0.1\n"
    )
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01\n")
    commands = (
        "openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=here",
        "openssl ca -config ca.cnf -batch -notext -selfsign -keyfile key.pem -in request.pem -out certificate.pem "
        f"-startdate {start} -enddate {end}",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return (folder / "key.pem").read_bytes(), (folder / "certificate.pem").read_bytes()


def test_an_expired_certificate_is_named_and_a_new_one_needs_no_restart(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store)
    key, pem = tmp_path / "served.key", tmp_path / "served.crt"
    expired = certificate(tmp_path, "20200101000000Z", "20200201000000Z")
    key.write_bytes(expired[0])
    pem.write_bytes(expired[1])
    with process("ann_service", store, tmp_path, *FLAGS, "--tls-certificate", str(pem), "--tls-key", str(key)) as (
        _,
        port,
    ):
        with (
            AnnClient(f"127.0.0.1:{port}", tls=Tls(ca_file=str(pem)), timeout_s=3) as client,
            pytest.raises(Unavailable, match=r"(?i)certificate"),
        ):
            client.search([SEARCH])
        valid = certificate(tmp_path, "20200101000000Z", "20990101000000Z")
        for path, content in ((key, valid[0]), (pem, valid[1])):
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").replace(path)
        with AnnClient(f"127.0.0.1:{port}", tls=Tls(ca_file=str(pem)), timeout_s=10) as client:
            wait_for(lambda: answers(client), "the new certificate is accepted")
