"""The client over long, lossy and broken ways, through proxies of the environment, and in forked processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.harness import ROOT, process
from tests.system.links import Link
from tests.system.test_faults import FLAGS, SEARCH, certificate
from tests.worlds import wait_for, write_bundle
from two_tower_client import InvalidRequest, Tls, Unavailable
from two_tower_client.ann import AnnClient


@contextmanager
def serving(store: FolderStore, folder: Path, *flags: str) -> Iterator[int]:
    """Runs an ANN service, and yields its port once it answers."""
    write_bundle(store)
    with process("ann_service", store, folder, *FLAGS, *flags) as (_, port):
        log = folder / "ann_service.log"
        wait_for(lambda: "bundle answers" in log.read_text(), "it serves")
        yield port


@pytest.mark.parametrize(("round_trip_s", "loss"), [(0.1, 0.0), (0.3, 0.0), (0.1, 0.02)])
@pytest.mark.parametrize("tls", [False, True])
def test_every_call_over_a_long_way_is_answered(
    store: FolderStore, tmp_path: Path, round_trip_s: float, loss: float, tls: bool
) -> None:
    flags: tuple[str, ...] = ()
    options = None
    if tls:
        certificate(tmp_path, "20200101000000Z", "20990101000000Z")
        flags = ("--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem"))
        options = Tls(ca_file=str(tmp_path / "certificate.pem"))
    with serving(store, tmp_path, *flags) as port, Link(port, round_trip_s / 2, loss) as link:
        for _ in range(2):  # each client connects anew
            with AnnClient(f"127.0.0.1:{link.port}", tls=options, timeout_s=5, own_connection=True) as client:
                for _ in range(5):
                    assert client.search([SEARCH]).retrievals[0].item_ids
        assert link.opened == 2


def test_calls_wait_for_the_only_replica_while_it_restarts(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store)
    with Pair(store.root, tmp_path / "logs") as pair:
        replica = pair.anns[0]
        with AnnClient(replica.address, timeout_s=60) as client:
            ended, slowest, failed = threading.Event(), [0.0], list[Exception]()

            def call() -> None:
                while not ended.is_set() and not failed:
                    began = time.monotonic()
                    try:
                        client.search([SEARCH])
                    except Exception as error:
                        failed.append(error)
                    slowest.append(time.monotonic() - began)

            caller = threading.Thread(target=call)
            caller.start()
            replica.stop()
            threading.Event().wait(3.0)
            replica.start()
            replica.wait_until_serving()
            count = len(slowest)
            wait_for(lambda: failed or len(slowest) > count + 20, "it answers again")
            ended.set()
            caller.join(60)
            assert failed == []
            assert max(slowest) > 2.5  # a call waited


def test_without_a_replica_the_error_names_the_cause_when_the_time_is_over() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with AnnClient(f"127.0.0.1:{port}") as client:
        for wait, least, most in ((True, 0.9, 5.0), (False, 0.0, 0.9)):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="check the address"):
                client.search([SEARCH], timeout_s=1.0, wait=wait)
            assert least < time.monotonic() - began < most
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.status(timeout_s=10)
        assert time.monotonic() - began < 5


PROXIED = """
import sys
from two_tower_client import Search
from two_tower_client.ann import AnnClient
with AnnClient(sys.argv[1], token="sesame", timeout_s=5, allow_plaintext_token=True) as client:
    print(len(client.search([Search(similar_to=["i1"], k=3)]).retrievals[0].item_ids))
"""


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_of_the_environment_is_no_way_to_this_host(store: FolderStore, tmp_path: Path, variable: str) -> None:
    with serving(store, tmp_path) as port, socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.0)
        environment = {**os.environ, variable: f"http://127.0.0.1:{proxy.getsockname()[1]}", "no_proxy": ""}
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'clients'}"
        for address in (f"localhost:{port}", f"127.0.0.1:{port}"):
            done = subprocess.run(
                [sys.executable, "-c", PROXIED, address], env=environment, capture_output=True, text=True, check=False
            )
            assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
        with pytest.raises(BlockingIOError):  # nobody has asked the proxy
            proxy.accept()


FORKED = """
import os, sys, threading
from two_tower_client import InvalidRequest, Search
from two_tower_client.ann import AnnClient
client = AnnClient(sys.argv[1], timeout_s=5)
search = [Search(similar_to=["i1"], k=3)]
client.search(search)
if child := os.fork():
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, len(client.search(search).retrievals))
    os._exit(0)
try:
    client.search(search)
except InvalidRequest as error:
    os._exit(7 if f"process {os.getppid()}" in str(error) else 8)
os._exit(9)
"""


def test_a_client_that_a_forked_process_inherits_says_what_to_do(store: FolderStore, tmp_path: Path) -> None:
    with serving(store, tmp_path) as port:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
        done = subprocess.run(
            [sys.executable, "-c", FORKED, f"127.0.0.1:{port}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.returncode) == ("7 1\n", 0), done.stderr


def test_what_is_too_large_is_the_fault_of_the_request(store: FolderStore, tmp_path: Path) -> None:
    with serving(store, tmp_path, "--max-request-bytes", "20000") as port, AnnClient(f"127.0.0.1:{port}") as client:
        searches = [type(SEARCH)(similar_to=["i1"], k=3, exclude=[f"{number}" for number in range(5000)])]
        with pytest.raises(InvalidRequest, match=r"no request of this size; send less at once .* 20000"):
            client.search(searches)
