"""Checks an image from inside, with the packages of the image alone: what it has, as whom it runs, and that it works.

`python inside_image.py KIND ENTRYPOINT…` needs `/check/empty`, an empty store, and `/check/filled`, a store of
`tests.worlds`; the trainer needs `/check/shop`, a recipe with its tables. `tests.deploy.check_images` starts it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHECK = Path("/check")
USER = 10001
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "ld", "as", "make")
FOLDERS_OF_THE_SYSTEM = ("/", "/etc", "/usr/bin", "/opt/two-tower")
TIMEOUT_S = 60.0
NO_REDIS = "redis://127.0.0.1:9/0"
"""Nothing listens there."""


def require(holds: bool, what: str) -> None:
    """Prints a fact that holds; ends the check with 1 if it does not."""
    print(f"  {'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def check_contents(kind: str) -> None:
    """Checks user, compilers, TensorFlow, and that the user cannot change the system."""
    require(os.getuid() == USER and os.getgid() == USER, f"runs as user and group {USER}")
    found = [name for name in COMPILERS if shutil.which(name)]
    require(not found, f"no compiler, linker or make{f': {found}' if found else ''}")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    require(has_tensorflow == (kind == "trainer"), f"{'has' if kind == 'trainer' else 'no'} tensorflow")
    require(not any(map(can_write, FOLDERS_OF_THE_SYSTEM)), f"cannot write to {', '.join(FOLDERS_OF_THE_SYSTEM)}")
    require(can_write("/tmp") and can_write("/var/cache/two-tower"), "can write to /tmp and the cache")
    require(importlib.util.find_spec("redis") is not None, "has redis, for live features")
    done = subprocess.run(["two-tower", "console"], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    plain = done.returncode == 1 and "is not installed" in done.stderr and len(done.stderr.splitlines()) == 1
    require(plain, f"says plainly that it has no console{'' if plain else f': {done.stderr}'}")
    if os.statvfs("/").f_flag & os.ST_RDONLY:
        require(True, "the root file system is read-only")
    else:
        print("  skipped: the root file system is not mounted read-only by this builder", flush=True)


def can_write(folder: str) -> bool:
    """Returns whether a file can be made in the folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_service(kind: str, entrypoint: list[str]) -> None:
    """Runs the service on an empty store and on a filled one."""
    with running(entrypoint, "empty") as (address, health):
        require(check_health(health) == 1, "is not healthy without a bundle")
        require(health_of(health, "liveness") == "SERVING", "is alive without a bundle")
        require(not open_bundles(kind, address), "answers that no bundle is open")
    with running(entrypoint, "filled") as (address, health):
        wait_for(lambda: check_health(health) == 0, "health with a bundle")
        require(True, "is healthy with a bundle")
        require(len(open_bundles(kind, address)) == 1, "answers which bundle is open")
        require(answers(kind, address), "answers a request")
    if kind == "query-tower":
        with running([*entrypoint, "--features", NO_REDIS], "filled") as (address, health):
            wait_for(lambda: check_health(health) == 0, "health with live features")
            require(answers(kind, address), "answers a request while the store of live features is away")


@contextlib.contextmanager
def running(entrypoint: list[str], store: str) -> Iterator[tuple[str, str]]:
    """Runs the service, yields its address and that of its health port, and ends it by SIGTERM."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port_file, health_port = Path(folder) / "port", free.getsockname()[1]
        free.close()
        flags = {"store": CHECK / store, "port": 0, "port-file": port_file, "health-port": health_port}
        command = [*entrypoint, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
        with Path(folder, "log").open("wb") as log:
            service = subprocess.Popen([*command, "--drain-delay-s", "0"], stdout=log, stderr=log)
        try:
            wait_for(lambda: port_file.exists() or service.poll() is not None, "the service to listen")
            require(service.poll() is None, f"starts on the {store} store")
            yield f"127.0.0.1:{port_file.read_text()}", f"127.0.0.1:{health_port}"
            service.send_signal(signal.SIGTERM)
            require(service.wait(TIMEOUT_S) == 0, "ends with 0 at SIGTERM")
        except BaseException:
            print(Path(folder, "log").read_text(errors="replace"))
            raise
        finally:
            service.kill()
            service.wait()


def check_health(address: str) -> int:
    """Returns the exit code of the image's own health check."""
    return subprocess.run(["check-health", address], capture_output=True, check=False, timeout=TIMEOUT_S).returncode


def health_of(address: str, service: str) -> str:
    """Returns the health of a service name."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def open_bundles(kind: str, address: str) -> list[str]:
    """Returns the versions of the open bundles."""
    from two_tower_client import AnnClient, QueryTowerClient

    if kind == "query-tower":
        with QueryTowerClient(address, check_health=False) as client:
            return [model.bundle_version for model in client.status().models]
    with AnnClient(address, check_health=False) as client:
        return [bundle.bundle_version for bundle in client.status().bundles]


def answers(kind: str, address: str) -> bool:
    """Returns whether the service answers a request about the bundle of `tests.worlds`."""
    from two_tower_client import AnnClient, QueryTowerClient, Search

    if kind == "query-tower":
        with QueryTowerClient(address) as client:
            return len(client.embed([{"age": 25.0, "watched": ["i1"]}]).vectors) == 1
    with AnnClient(address) as client:
        return len(client.search([Search(similar_to=("i5",), k=5)]).retrievals[0].item_ids) == 5


def check_trainer(entrypoint: list[str]) -> None:
    """Trains one epoch on small tables, publishes to a store, and reads the store again; runs the client's command."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        command = [*entrypoint, "train", str(CHECK / "shop" / "shop.toml"), "--run", f"{folder}/run", "--store", store]
        trained = subprocess.run([*command, "--epochs", "1"], check=False, timeout=400)
        require(trained.returncode == 0, "trains and publishes a bundle")
        listed = subprocess.run([*entrypoint, "bundles", "--store", store], check=False, timeout=TIMEOUT_S)
        require(listed.returncode == 0, "lists the bundles of the store")
    done = subprocess.run(["two-tower", "--version"], check=False, timeout=TIMEOUT_S)
    require(done.returncode == 0, "has the command two-tower, to wait for the services")


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds; ends the check if it does not."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > end:
            require(False, f"{what} within {TIMEOUT_S:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    kind, *entrypoint = sys.argv[1:]
    check_contents(kind)
    if kind == "trainer":
        check_trainer(entrypoint)
    else:
        check_service(kind, entrypoint)
