"""What the command line does with a token that may not read the status of the services, which has the types."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import ann_service, query_tower_service
from tests.worlds import write_bundle
from two_tower_client.cli.main import main

Output = pytest.CaptureFixture[str]
Tokens = dict[str, list[str]]


@pytest.fixture
def tokens(store: FolderStore, tmp_path: Path) -> Iterator[Tokens]:
    """Both services; options of the client for each set of scopes."""
    scopes = ("read", "read,admin")
    write_bundle(store, popularity=lambda row: row)
    (tmp_path / "tokens").write_text("".join(f"secret-{n} caller{n} {each}\n" for n, each in enumerate(scopes)))
    with (
        query_tower_service(store, token_file=tmp_path / "tokens") as tower,
        ann_service(store, token_file=tmp_path / "tokens") as ann,
    ):
        tower.wait_until_serving()
        ann.wait_until_serving()
        addresses = ["--query-tower", f"127.0.0.1:{tower.port}", "--ann", f"127.0.0.1:{ann.port}"]
        options: Tokens = {}
        for number, each in enumerate(scopes):
            (tmp_path / each).write_text(f"secret-{number}")
            options[each] = [*addresses, "--token-file", str(tmp_path / each)]
        yield options


@pytest.mark.parametrize(
    "command",
    [
        ["retrieve"],
        ["retrieve", "--user-id", "42", "--where", "year>=1990"],
        ["similar", "--item", "i7", "--boost", "year<=1990", "0.1", "--facet", "genres", "--at-most", "genres=2"],
        ["popular", "--where", "year>=1990", "--where", "year<=2000", "--exclude", "i1,i2"],
    ],
)
def test_what_needs_no_types_needs_no_admin(tokens: Tokens, capsys: Output, command: list[str]) -> None:
    answers = list[dict]()
    for options in tokens.values():
        assert main([*command, *options, "--json"]) == 0
        out = capsys.readouterr().out
        answers.append(json.loads(out[out.index("{\n") :]))  # after the log of the services, which run here
    assert answers[0]["items"]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["retrieve", "--feature", "age=24"], "the values of --feature are sent in the types"),
        (["similar", "--item", "i7", "--where", "year=1990"], "--where: 'year=1990' needs the type"),
        (["popular", "--boost", "genres!=Drama", "0.1"], "--boost: 'genres!=Drama' needs the type"),
    ],
)
def test_what_needs_types_says_which_scopes(tokens: Tokens, capsys: Output, command: list[str], said: str) -> None:
    assert main([*command, *tokens["read"]]) == 1
    error = capsys.readouterr().err
    assert f"two-tower: {said}" in error
    assert "give a token with read,admin" in error
    assert main([*command, *tokens["read,admin"]]) == 0


def test_the_service_checks_the_attribute_of_a_bound(tokens: Tokens, capsys: Output) -> None:
    assert main(["popular", "--where", "size>=3", *tokens["read"]]) == 2
    assert "unknown attribute 'size'" in capsys.readouterr().err
