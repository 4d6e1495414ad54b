"""The console as a program: `two-tower console`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import httpx2
import pytest

from console.web.threads import Threads, TookTooLong
from retrieval.bundle.layout import LIVE
from retrieval.store.folder_store import FolderStore
from tests.console.world import Visitor, free_port, running, settings_for, write
from tests.worlds import wait_for

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serves_until_a_signal(tmp_path: Path, number: signal.Signals, code: int) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store)
    port_file, log = tmp_path / "port", tmp_path / "log"
    command = [sys.executable, "-m", "two_tower_client", "console", "--store", str(store.root), "--port", "0"]
    command += ["--query-tower", f"127.0.0.1:{free_port()}", "--ann", f"127.0.0.1:{free_port()}"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    with log.open("wb") as stderr:
        child = subprocess.Popen([*command, "--port-file", str(port_file)], env=environment, stderr=stderr)
    try:
        wait_for(lambda: port_file.exists() or child.poll() is not None, "it listens", timeout_s=60)
        assert child.poll() is None, log.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port_file.read_text().strip()}/", timeout=30) as page:
            assert f'href="/bundles/{version}"' in page.read().decode()
        child.send_signal(number)
        assert child.wait(30) == code
    finally:
        child.kill()
        child.wait()
    lines = log.read_text().splitlines()
    assert len(lines) == 1, lines
    assert f"console of {store.root} on http://127.0.0.1:" in lines[0]


def test_a_store_that_hangs_leaves_the_fleet_and_a_signal_ends_the_console(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    version = write(store)
    live = store.root / LIVE
    text = live.read_text()
    live.unlink()
    os.mkfifo(live)  # whoever opens it waits, as for a disk of a server that is away
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "console", "--store", str(store.root), "--port", "0"]
    command += ["--query-tower", f"127.0.0.1:{free_port()}", "--ann", f"127.0.0.1:{free_port()}"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    child = subprocess.Popen([*command, "--port-file", str(port_file)], env=environment)
    try:
        wait_for(lambda: port_file.exists() or child.poll() is not None, "it listens", timeout_s=60)
        address = f"http://127.0.0.1:{port_file.read_text().strip()}"
        with httpx2.Client(base_url=address, timeout=30, trust_env=False) as http:
            for _ in range(2):
                fleet = http.get("/api/fleet").json()
                assert "hangs" in fleet["store"]["trouble"]
                assert len(fleet["pairs"][0]["replicas"]) == 2
            live.unlink()
            live.write_text(text)
            assert http.get("/api/fleet").json()["store"] == {"live": version, "trouble": ""}
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()


def test_calls_that_hang_make_room_for_others_and_are_bounded() -> None:
    released = threading.Event()

    async def call() -> None:
        threads = Threads("the store", 0.2)
        for _ in range(4):
            hanging = [threads.run(released.wait, 60) for _ in range(16)]
            ended = await asyncio.gather(*hanging, return_exceptions=True)
            assert all(isinstance(each, TookTooLong) for each in ended)
        with pytest.raises(TookTooLong, match="64 calls of the store hang"):
            await threads.run(int)
        released.set()
        while True:  # the calls that hung end one after the other
            try:
                assert await threads.run(int) == 0
                break
            except TookTooLong:
                await asyncio.sleep(0.01)

    try:
        asyncio.run(asyncio.wait_for(call(), 60))
    finally:
        released.set()


def test_with_a_certificate_it_speaks_tls_and_its_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    settings = settings_for(FolderStore(tmp_path / "store"), None, certificate=certificate, key=key)
    with running(settings) as (_, address):
        context = ssl.create_default_context(cafile=certificate)
        base = address.replace("http://127.0.0.1", "https://localhost")
        with httpx2.Client(base_url=base, verify=context, timeout=30, trust_env=False) as http:
            visitor = Visitor(http)
            assert visitor.get("/").headers["set-cookie"].endswith("; Secure")
            assert visitor.post("/token", {"token": "abc"}).headers["location"] == "/token"


def test_a_port_that_is_taken_is_said_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "console", "--store", str(tmp_path), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"two-tower console: cannot listen on 127.0.0.1, port {port}: ")
    assert len(done.stderr.splitlines()) == 1
