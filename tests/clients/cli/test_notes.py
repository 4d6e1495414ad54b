"""What the command line says about ids and conditions that match nothing."""

import json

import pytest

from tests.clients.conftest import World
from tests.clients.world import GENRES, VECTORS
from two_tower_client.cli.main import main

Output = pytest.CaptureFixture[str]
COMMANDS = pytest.mark.parametrize(
    "command", [["retrieve", "--feature", "age=0"], ["popular"], ["similar", "--item", "northeast"]]
)


def asked(world: World, capsys: Output, *arguments: str) -> dict:
    assert main([*arguments, *world.flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def items(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@COMMANDS
def test_excluded_ids_may_be_separated_by_commas(world: World, capsys: Output, command: list[str]) -> None:
    answer = asked(world, capsys, *command, "--exclude", "east,northeast,")
    assert items(answer) == ["north"]
    assert "unknown_excluded" not in answer
    assert items(asked(world, capsys, *command, "--exclude", "east,gone", "northeast")) == ["north"]


def test_an_excluded_id_that_holds_a_comma_is_one_id(
    world: World, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VECTORS, "east,north", (0.8, 0.6))
    assert items(asked(world, capsys, "retrieve")) == ["east", "east,north", "northeast", "north"]
    assert items(asked(world, capsys, "retrieve", "--exclude", "east,north")) == ["east", "northeast", "north"]


def test_ids_without_a_comma_cost_no_call_before_the_search(world: World, capsys: Output) -> None:
    asked(world, capsys, "popular", "--exclude", "east", "north")
    first, *_ = world.ann.requests
    assert list(first.searches[0].exclude_item_ids) == ["east", "north"]


@COMMANDS
def test_json_names_excluded_ids_that_the_catalogue_lacks(world: World, capsys: Output, command: list[str]) -> None:
    assert asked(world, capsys, *command, "--exclude", "north", "gone,nrth")["unknown_excluded"] == ["gone", "nrth"]


@COMMANDS
def test_says_which_boost_no_item_meets(
    world: World, capsys: Output, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    boosts = ["--boost", "genres=drama", "0.1", "--boost", "genres=Drama", "0.1", "--boost", "genres=Comedy", "-0.1"]
    assert main([*command, *world.flags, *boosts]) == 0
    said = "! no item of the catalogue meets genres=drama of --boost, whose values are case-sensitive"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert asked(world, capsys, *command, *boosts)["unmatched_boosts"] == ["genres=drama"]
    monkeypatch.setitem(GENRES, "north", ["drama"])
    assert main([*command, *world.flags, *boosts]) == 0
    assert "--boost" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("hue=red", "two-tower: --boost: items have no attribute 'hue'; there are genres, title, year\n"),
        ("year", "two-tower: --boost: 'year' is not name=value, name!=value, name>=number or name<=number\n"),
        ("year=new", "two-tower: --boost: 'year=new': 'new' is not a whole number, which the attribute requires\n"),
        ("year>=new", "two-tower: --boost: 'year>=new': 'new' is not a number\n"),
    ],
)
def test_a_wrong_condition_of_a_boost_names_its_option(
    world: World, capsys: Output, condition: str, message: str
) -> None:
    assert main(["retrieve", *world.flags, "--boost", condition, "0.05"]) == 2
    assert capsys.readouterr().err == message
