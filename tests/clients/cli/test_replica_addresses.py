"""Addresses of replicas on the command line: a DNS name stands for each of its addresses."""

import pytest

from tests.clients.conftest import World
from two_tower_client.cli.main import main
from two_tower_client.cli.replica_addresses import find_replicas
from two_tower_client.errors import InvalidRequest, Unavailable

Output = pytest.CaptureFixture[str]


def test_addresses_are_kept_and_names_of_dns_are_resolved() -> None:
    found = find_replicas("10.0.0.2:50051, host:50052,dns:///127.0.0.1:50053,dns:///::1:50054")
    assert found == ["10.0.0.2:50051", "host:50052", "127.0.0.1:50053", "[::1]:50054"]


def test_a_name_stands_for_each_of_its_addresses_once() -> None:
    # Which of the two a machine has differs; the resolver lists each once for each of its sources.
    found = find_replicas("dns:///localhost:50051")
    assert found
    assert found == sorted(set(found) & {"127.0.0.1:50051", "[::1]:50051"})


@pytest.mark.parametrize("target", ["dns:///host", "dns:///:50051", "dns:///host:0", "dns:///host:grpc"])
def test_a_target_without_host_or_port_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="is not dns:///host:port"):
        find_replicas(target)


def test_a_name_without_an_address_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"no\.such\.host\.invalid has no address"):
        find_replicas("dns:///no.such.host.invalid:50051")


def test_wait_and_status_call_each_address_of_a_name(world: World, capsys: Output) -> None:
    flags = ["--query-tower", f"dns:///{world.query_tower_address}", "--ann", f"dns:///{world.ann_address}"]
    assert main(["wait", "--for", "live", *flags]) == 0
    assert main(["status", *flags]) == 0
    output = capsys.readouterr().out
    assert "is live at 1 of 1 query_tower and 1 of 1 ann" in output
    assert f"ann {world.ann_address}" in " ".join(output.split())


def test_with_tls_a_name_needs_the_host_of_the_certificates(world: World, capsys: Output) -> None:
    flags = ["--query-tower", f"dns:///{world.query_tower_address}", "--ann", world.ann_address, "--tls"]
    assert main(["status", *flags]) == 2
    assert "--server-name: is needed with TLS and dns:///" in capsys.readouterr().err


def test_wait_looks_a_name_up_until_its_replicas_are_there(world: World, capsys: Output) -> None:
    """A quorum larger than the number of addresses may still be reached; one of fixed addresses may not."""
    name, fixed = f"dns:///{world.query_tower_address}", ["--ann", world.ann_address, "--timeout-s", "0.3"]
    assert main(["wait", "--for", "live", "--query-tower", name, *fixed, "--quorum", "2"]) == 2
    assert "ann has 1 address(es)" in capsys.readouterr().err
    both = ["--query-tower", name, "--ann", f"dns:///{world.ann_address}", "--timeout-s", "0.3", "--every-s", "0.01"]
    assert main(["wait", "--for", "live", *both, "--quorum", "2"]) == 1
    assert "was not loaded in 0.3 s; 1 of 1 query_tower and 1 of 1 ann have it" in capsys.readouterr().err
    assert len(world.ann.requests) > 2


def test_a_name_without_an_address_is_a_fault(world: World, capsys: Output) -> None:
    flags = ["--query-tower", world.query_tower_address, "--ann", "dns:///no.such.host.invalid:1"]
    assert main(["status", *flags]) == 1
    assert "no.such.host.invalid has no address" in capsys.readouterr().out
    assert main(["wait", "--for", "live", *flags, "--timeout-s", "0.1"]) == 1
    assert "0 of 1 ann have it" in capsys.readouterr().err
