"""The services start with the very arguments of the Kubernetes base and of the compose file."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from retrieval.store.folder_store import FolderStore
from tests.deploy.guide import make_secrets
from tests.deploy.manifests import ROOT, container, flags
from tests.worlds import wait_for, write_bundle
from two_tower_client import QueryTowerClient, Unauthenticated
from two_tower_client.ann import AnnClient
from two_tower_client.rpc.channel import Tls

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PROGRAMS = {"query-tower": "query_tower_service", "ann": "ann_service"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_bundle(FolderStore(folder))
    return folder


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and tokens of the guide, and a folder `pod` with what a pod has of them."""
    folder = tmp_path_factory.mktemp("secrets")
    make_secrets(folder)
    for name, files in {"tls": ("tls.crt", "tls.key"), "tokens": ("tokens",)}.items():
        (folder / "pod" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(folder / file, folder / "pod" / name / file)
    return folder


@contextmanager
def running(program: str, arguments: list[str], folder: Path) -> Iterator[None]:
    """Runs a service with arguments, in an environment without the variables of the caller."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "HOME": str(folder)}
    log = folder / "log"
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", program, *arguments], stderr=stderr, cwd=folder, env=environment
        )
    try:
        wait_for(lambda: '"bundle answers"' in log.read_text() or child.poll() is not None, f"{program} serves")
        assert child.poll() is None, log.read_text()
        yield
    finally:
        child.kill()
        child.wait()


def on_this_machine(arguments: list[str], values: dict[str, str]) -> tuple[list[str], dict[str, int]]:
    """The arguments with texts replaced, and with free ports on loopback; and these ports by flag."""
    ports = dict[str, int]()

    def replace(word: str) -> str:
        for old, new in values.items():
            word = word.replace(old, new)
        name, sign, value = word.partition("=")
        if name.endswith("host"):
            value = "127.0.0.1"
        elif name.endswith("port"):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports[name.removeprefix("--")] = free.getsockname()[1]
            value = str(ports[name.removeprefix("--")])
        return f"{name}{sign}{value}"

    return [replace(word) for word in arguments], ports


def is_serving(port: int, service: str) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_starts_with_the_arguments_of_the_pod_and_wants_tls_and_a_token(
    name: str, store: Path, secrets: Path, tmp_path: Path
) -> None:
    given = {"$(TWO_TOWER_STORE)": str(store), "/etc/two-tower": str(secrets / "pod")}
    arguments, ports = on_this_machine(container(name)["args"], given)
    with running(PROGRAMS[name], arguments, tmp_path):
        one = container(name)
        for probe in ("readinessProbe", "livenessProbe"):
            assert is_serving(ports["health-port"], one[probe]["grpc"].get("service", ""))
        client = QueryTowerClient if name == "query-tower" else AnnClient
        # As the training job calls the pods: by IP address, with the name in the certificate.
        tls = Tls(ca_file=str(secrets / "ca.crt"), server_name="query-tower")
        token = str(secrets / "operator.token")
        with client(f"127.0.0.1:{ports['port']}", tls=tls, token_file=token) as operator:
            assert operator.status().live_bundle_version
        with client(f"127.0.0.1:{ports['port']}", tls=tls) as stranger, pytest.raises(Unauthenticated):
            stranger.status()


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_starts_with_the_arguments_of_the_compose_file(name: str, store: Path, tmp_path: Path) -> None:
    arguments, ports = on_this_machine(COMPOSE["services"][name]["command"], {"/store": str(store)})
    with running(PROGRAMS[name], arguments, tmp_path):
        assert is_serving(ports["port"], "")
        assert is_serving(ports["health-port"], "")


def test_compose_is_restricted_and_reachable_from_this_machine_alone() -> None:
    version = (ROOT / "clients" / "VERSION").read_text().strip()
    mounted = set[str]()
    for name, service in COMPOSE["services"].items():
        assert service["image"] == f"${{IMAGES:-two-tower}}/{name}:${{TAG:-{version}}}"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        mounted |= {volume.split(":")[0] for volume in service["volumes"]}
    assert mounted == set(COMPOSE["volumes"])
    assert COMPOSE["services"]["trainer"]["profiles"] == ["train"]
    for name in PROGRAMS:
        service, given = COMPOSE["services"][name], flags(COMPOSE["services"][name]["command"])
        # They have neither TLS nor tokens.
        assert service["ports"] == [f"127.0.0.1:{given['port']}:{given['port']}"]
        assert service["healthcheck"]["test"] == ["CMD", "check-health", f"127.0.0.1:{given['health-port']}"]
        assert service["volumes"] == ["store:/store:ro"]
        drain_s = float(given["drain-delay-s"]) + float(given["drain-timeout-s"])
        assert int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1]) >= drain_s + 15  # type: ignore[index]


def test_the_image_has_the_health_check_of_the_compose_file() -> None:
    text = (ROOT / "deploy" / "images" / "Containerfile").read_text()
    assert "COPY deploy/images/check_health.py /opt/two-tower/bin/check-health" in text
    assert os.access(ROOT / "deploy" / "images" / "check_health.py", os.X_OK)


def test_the_ignore_file_lets_in_what_the_images_are_built_from() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in let_in)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "benchmarks",
        "console",
        "examples",
        "testbed",
        "tests",
    }
    assert packages <= let_in
