"""docs/gateway.md: its configuration for one machine, its TLS, and its tables."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrieval.store.folder_store import FolderStore
from testbed.gateway.envoy import CONFIGURATION, Gateway
from testbed.services import ROOT, Pair
from tests.worlds import wait_for
from two_tower_client import Retriever, Unauthenticated
from two_tower_client.rpc.channel import Tls

PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
CALLERS_TLS, SERVICES_TLS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TOKEN = "token-of-the-shop"


def test_the_command_for_one_machine_changes_the_four_addresses_alone(tmp_path: Path) -> None:
    (command,) = re.findall(r"^\$ (sed .*?> gateway\.yaml)$", PAGE, re.DOTALL | re.MULTILINE)
    command = command.replace("> gateway.yaml", f"> {tmp_path}/gateway.yaml")
    subprocess.run(["sh", "-ec", command], cwd=ROOT, check=True, timeout=10)
    made, original = (yaml.safe_load(path.read_text()) for path in (tmp_path / "gateway.yaml", CONFIGURATION))
    ports = dict[str, Any]()
    for each, cluster in zip(
        made["static_resources"]["clusters"], original["static_resources"]["clusters"], strict=True
    ):
        address = each["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        ports[each["name"]] = (address["address"], address["port_value"])
        each["load_assignment"] = cluster["load_assignment"]
    host = "127.0.0.1"
    assert ports == {
        "stable-query-tower": (host, 50051),
        "stable-ann": (host, 50052),
        "candidate-query-tower": (host, 50061),
        "candidate-ann": (host, 50062),
    }
    assert made == original


def test_the_paths_are_those_of_the_rules() -> None:
    rules = yaml.safe_load((CONFIGURATION.parent / "http_rules.yaml").read_text())["http"]["rules"]
    expected = {f"{verb.upper()} {rule[verb]}" for rule in rules for verb in ("get", "post") if verb in rule}
    assert set(re.findall(r"^\|[^|]*\| `((?:GET|POST) /v1/[^`]*)` \|$", PAGE, re.MULTILINE)) == expected


def test_only_loopback_is_bound_and_both_services_have_the_same_shares() -> None:
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    addresses = [configuration["admin"]["address"], configuration["static_resources"]["listeners"][0]["address"]]
    assert {address["socket_address"]["address"] for address in addresses} == {"127.0.0.1"}
    split = configuration["layered_runtime"]["layers"][0]["static_layer"]["two_tower"]["split"]
    assert split["stable-query-tower"] == split["stable-ann"] == 100
    assert split["candidate-query-tower"] == split["candidate-ann"] == 0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Key and certificate of the gateway and of both services."""
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    names = "subjectAltName=DNS:query-tower,DNS:localhost"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext {names}"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    return key, certificate


def test_calls_are_encrypted_up_to_the_services_which_check_the_token(
    filled: FolderStore, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    key, chain = certificate
    (tmp_path / "tokens").write_text(f"{TOKEN} shop read\n")
    flags = {"tls-certificate": str(chain), "tls-key": str(key), "token-file": str(tmp_path / "tokens")}

    def secure(configuration: dict[str, Any]) -> None:
        paths = {
            "/etc/two-tower/tls/tls.crt": chain,
            "/etc/two-tower/tls/ca.crt": chain,
            "/etc/two-tower/tls/tls.key": key,
        }
        blocks = [CALLERS_TLS, SERVICES_TLS]
        for path, own in paths.items():
            blocks = [block.replace(path, str(own)) for block in blocks]
        static = configuration["static_resources"]
        static["listeners"][0]["filter_chains"][0].update(yaml.safe_load(blocks[0]))
        for cluster in static["clusters"]:
            cluster.update(yaml.safe_load(blocks[1]))

    pair = Pair(filled.root, tmp_path / "logs", flags=flags)
    with ExitStack() as stack:
        stack.callback(pair.stop)
        for replica in pair.replicas:
            replica.start()
        gateway = stack.enter_context(Gateway(tmp_path / "envoy", pair, change=secure))
        for service in ("query-tower", "ann"):
            wait_for(lambda name=f"stable-{service}": gateway.healthy_replicas(name) == 1, f"{service} is healthy")
        address, tls = gateway.address, Tls(ca_file=str(chain), server_name="localhost")
        with Retriever(address, address, tls=tls, token=TOKEN, timeout_s=10.0, check_health=False) as retriever:
            assert retriever.retrieve({"age": 30}).bundle_version == filled.live_version()
        with (
            Retriever(address, address, tls=tls, timeout_s=10.0, check_health=False) as stranger,
            pytest.raises(Unauthenticated),
        ):
            stranger.retrieve({"age": 30})
