"""Addresses and credentials."""

import logging
from pathlib import Path

import grpc
import pytest

from tests.clients.world import ScriptedAnn, serving
from two_tower_client import AnnClient, InvalidRequest, Retriever, Tls, TwoTowerError
from two_tower_client.rpc.channel import Address, connect

SECRET = "s3cret-token"


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("localhost:50051", "ipv4:127.0.0.1:50051"),
        ("10.0.0.1:50051", "ipv4:10.0.0.1:50051"),
        ("ann.internal:50052", "dns:///ann.internal:50052"),
        (["10.0.0.1:1", "localhost:2"], "ipv4:10.0.0.1:1,127.0.0.1:2"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[fe80::2]:2"], "ipv6:[::1]:1,[fe80::2]:2"),
        ("dns:///ann.internal:50052", "dns:///ann.internal:50052"),
        (["unix:/run/ann.sock"], "unix:/run/ann.sock"),
    ],
)
def test_target_of_an_address(address: Address, target: str) -> None:
    assert connect(address).target == target


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", ":50051", "localhost:http", "localhost:0", "localhost:65536", "::1:50051", [],
     ["10.0.0.1:1", "ann.internal:1"], ["10.0.0.1:1", "[::1]:1"], "localhost:1,", "localhost:²"],
)  # fmt: skip
def test_rejects_an_invalid_address(address: Address) -> None:
    with pytest.raises(InvalidRequest) as caught:
        connect(address)
    assert caught.value.violations[0][0] == "address"


def test_token_is_sent_as_bearer_and_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    expected = (("authorization", "Bearer s3cret-token"),)
    assert connect("localhost:1", token=SECRET).metadata.make("r") == (*expected, ("x-request-id", "r"))
    assert connect("localhost:1", token_file=str(path)).metadata.make("r") == (*expected, ("x-request-id", "r"))
    assert connect("localhost:1").metadata.make("r") == (("x-request-id", "r"),)


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "schlüssel"])
def test_rejects_a_token_that_no_header_can_carry_and_does_not_repeat_it(token: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        connect("localhost:1", token=token)
    assert str(caught.value) == "token: is empty, or has spaces or other than printable ASCII characters"


def test_rejects_a_token_and_a_token_file_together() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        connect("localhost:1", token=SECRET, token_file="/nowhere")


@pytest.mark.parametrize("address", ["10.0.0.1:1", "ann.internal:1", ["127.0.0.1:1", "10.0.0.1:1"], "dns:///ann:1"])
def test_refuses_to_send_a_token_in_plain_text(address: Address) -> None:
    with pytest.raises(InvalidRequest, match="plain text"):
        connect(address, token=SECRET)
    assert connect(address, token=SECRET, allow_plaintext_token=True).metadata.has_token
    assert connect(address, token=SECRET, tls=Tls()).metadata.has_token


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.2:1", "[::1]:1", "unix:/run/ann.sock", "ipv4:127.0.0.1:1"])
def test_sends_a_token_to_this_host_in_plain_text(address: Address) -> None:
    assert connect(address, token=SECRET).metadata.has_token


def test_never_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Retriever("localhost:1", "localhost:2", token=SECRET) as retriever:
        shown = [
            repr(retriever),
            repr(retriever.ann),
            repr(retriever.query_tower),
            repr(connect("[::1]:1", token=SECRET)),
        ]
        with pytest.raises(TwoTowerError) as caught:
            retriever.ann.status(timeout_s=0.0001)
    shown += [str(caught.value), repr(caught.value), repr(caught.value.__cause__), caplog.text]
    assert not [text for text in shown if SECRET in text]
    assert repr(AnnClient("localhost:2", token=SECRET)) == "AnnClient('ipv4:127.0.0.1:2')"


def test_files_that_cannot_be_read_are_named() -> None:
    with pytest.raises(InvalidRequest, match="ca_file: cannot read '/nowhere': No such file"):
        connect("localhost:1", tls=Tls(ca_file="/nowhere"))
    with pytest.raises(InvalidRequest, match="token_file: cannot read '/nowhere'"):
        connect("localhost:1", token_file="/nowhere")


def test_a_certificate_goes_with_its_key() -> None:
    with pytest.raises(InvalidRequest, match="go together"):
        Tls(cert_file="client.pem")


def test_a_server_name_is_an_option_of_the_channel() -> None:
    options = connect("localhost:1", tls=Tls(server_name="ann.internal")).options
    assert ("grpc.ssl_target_name_override", "ann.internal") in options


def test_responses_may_exceed_the_default_limit_of_grpc() -> None:
    # 1,000 searches of 1,000 items, 4 bytes per score and about 10 per id, are 14 MB. The limit of gRPC is 4 MiB.
    options: dict[str, str | int] = dict(connect("localhost:1").options)
    assert options["grpc.max_receive_message_length"] == 67_108_864


def test_opens_as_many_connections_as_requested() -> None:
    seen: list[str] = []

    class Peers(ScriptedAnn):
        def receive(self, request: object, context: grpc.ServicerContext) -> None:
            seen.append(context.peer())

    with serving(Peers(("b1", "m1"))) as (address,), AnnClient(address, connections=3, timeout_s=5) as client:
        for _ in range(6):
            client.status()
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]


@pytest.mark.parametrize("connections", [0, 65])
def test_rejects_too_few_or_too_many_connections(connections: int) -> None:
    with pytest.raises(InvalidRequest, match="connections: has to be 1 to 64"):
        AnnClient("localhost:1", connections=connections)
