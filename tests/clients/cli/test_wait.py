"""`two-tower wait`: until replicas have loaded a bundle, or answer from the live one."""

import pytest

from tests.clients.conftest import World
from tests.clients.world import ScriptedAnn, ScriptedQueryTower, serving
from two_tower_client.cli.main import main

Output = pytest.CaptureFixture[str]


def test_wait_returns_once_all_have_the_bundle(world: World, capsys: Output) -> None:
    world.query_tower.bundles = [("b2", "m2")]

    def load_at_the_third_request() -> None:
        if len(world.ann.requests) == 3:
            world.ann.bundles = [("b2", "m2"), ("b1", "m1")]

    world.ann.on_status = load_at_the_third_request
    assert main(["wait", "--for", "b2", *world.flags, "--every-s", "0.001"]) == 0
    assert capsys.readouterr().out == "b2 is loaded by 1 of 1 query_tower and 1 of 1 ann\n"
    assert len(world.ann.requests) == 3


def test_wait_returns_once_a_quorum_has_the_bundle(capsys: Output) -> None:
    services = [ScriptedQueryTower(("b2", "m2")), ScriptedAnn(("b1", "m1")), ScriptedAnn(("b2", "m2"))]
    with serving(*services) as (query_tower, *anns):
        flags = ["--query-tower", query_tower, "--ann", ",".join(anns)]
        assert main(["wait", "--for", "b2", *flags, "--quorum", "1"]) == 0
        assert main(["wait", "--for", "b2", *flags, "--quorum", "2"]) == 2
    output = capsys.readouterr()
    assert output.out == "b2 is loaded by 1 of 1 query_tower and 1 of 2 ann\n"
    assert output.err == "two-tower: --quorum: is 2, and query_tower has 1 address(es)\n"


def test_wait_for_live_returns_once_all_answer_from_the_live_bundle(world: World, capsys: Output) -> None:
    assert main(["wait", "--for", "live", *world.flags]) == 0
    assert "is live at 1 of 1 query_tower and 1 of 1 ann" in capsys.readouterr().out


def test_wait_gives_up_at_its_timeout(world: World, capsys: Output) -> None:
    assert main(["wait", "--for", "b2", *world.flags, "--timeout-s", "0.2", "--every-s", "0.01"]) == 1
    assert "b2 was not loaded in 0.2 s; 0 of 1 query_tower and 0 of 1 ann have it" in capsys.readouterr().err


def test_wait_gives_up_as_soon_as_the_bundle_is_refused(world: World, capsys: Output) -> None:
    world.ann.problems = [("b2", "sha256", "index.ann differs")]
    assert main(["wait", "--for", "b2", *world.flags]) == 1
    error = capsys.readouterr().err
    assert "b2 was refused" in error
    assert "at gate 'sha256': index.ann differs" in error
