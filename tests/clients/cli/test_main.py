"""Output and exit codes of the command line, against scripted services."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from tests.clients.conftest import World
from tests.clients.world import TITLES, bad_request, bare, free_port
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client.cli.main import main
from two_tower_client.cli.parser import make_parser

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWO_TOWER_QUERY_TOWER", "TWO_TOWER_ANN", "TWO_TOWER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_retrieve_prints_a_table(world: World, capsys: Output) -> None:
    arguments = ["--feature", "age=0", "--feature", "history=50,181", "--k", "2", "--attribute", "title"]
    assert main(["retrieve", *world.flags, *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rank  item       score   title",
        "1     east       1.0000  East",
        "2     northeast  0.6000  Northeast",
        "",
        "model m1, bundle b1",
    ]
    features = world.query_tower.requests[-1].queries[0].features
    assert list(features["age"].floats.values) == [0.0]
    assert list(features["history"].strings.values) == ["50", "181"]


def test_retrieve_says_what_the_model_does_not_know(world: World, capsys: Output) -> None:
    assert main(["retrieve", *world.flags, "--feature", "history=typo,east", "--feature", "age=3"]) == 0
    said = "! the model does not know 1 of the values of --feature (history=typo): a typo, or new?"
    assert said in capsys.readouterr().out
    alone = [list(query.features["history"].strings.values) for query in world.query_tower.requests[-1].queries]
    assert alone == [["typo"], ["east"]]  # and not the age, which has no vocabulary
    assert main(["retrieve", *world.flags, "--feature", "history=typo,east", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_values"] == 1


@pytest.mark.parametrize(
    "command", [["retrieve", "--feature", "age=0"], ["popular"], ["similar", "--item", "northeast"]]
)
def test_says_which_excluded_ids_the_catalogue_lacks(world: World, capsys: Output, command: list[str]) -> None:
    excluded = ["--exclude", "north", "gone", "nrth"]
    assert main([*command, "--ann", world.ann_address, "--query-tower", world.query_tower_address, *excluded]) == 0
    said = "! the catalogue has no item of these ids of --exclude: gone, nrth"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert main([*command, *world.flags, "--exclude", "north"]) == 0
    assert "--exclude" not in capsys.readouterr().out


@pytest.mark.parametrize("command", [["popular"], ["similar", "--item", "north"]])
def test_says_that_it_does_not_use_the_query_tower(world: World, capsys: Output, command: list[str]) -> None:
    assert main([*command, *world.flags]) == 0
    said = f"two-tower: note: `{command[0]}` asks the ANN service alone; --query-tower is not used\n"
    assert capsys.readouterr().err == said
    assert main([*command, "--ann", world.ann_address]) == 0
    assert capsys.readouterr().err == ""


def test_retrieve_prints_json(world: World, capsys: Output) -> None:
    assert main(["retrieve", *world.flags, "--k", "1", "--attribute", "year", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model_version": "m1",
        "bundle_version": "b1",
        "items": [{"item_id": "east", "score": 1.0, "attributes": {"year": 1990}}],
    }


@pytest.mark.parametrize(
    ("arguments", "items"),
    [
        (["--exclude", "east", "north"], ["northeast"]),
        (["--where", "genres=Drama"], ["northeast", "north"]),
        (["--where", "genres=Drama", "--where", "year<=2000"], ["north"]),
        (["--where", "genres!=Drama"], ["east"]),
        (["--where", "year=2010"], ["northeast"]),
        (["--min-score", "0.5", "--exact"], ["east", "northeast"]),
    ],
)
def test_retrieve_filters_items(world: World, capsys: Output, arguments: list[str], items: list[str]) -> None:
    assert main(["retrieve", *world.flags, *arguments, "--json"]) == 0
    assert [item["item_id"] for item in json.loads(capsys.readouterr().out)["items"]] == items


def test_similar_calls_only_the_ann_service(world: World, capsys: Output) -> None:
    assert main(["similar", "--ann", world.ann_address, "--item", "north", "--k", "1"]) == 0
    assert "1     northeast  0.8000" in capsys.readouterr().out
    assert world.query_tower.requests == []


def test_a_text_ranks_alone_or_fused(world: World, capsys: Output) -> None:
    assert main(["retrieve", *world.flags, "--ranking", "lexical", "--text", "east", "--k", "1"]) == 0
    assert "1     northeast  9.0000" in capsys.readouterr().out
    assert world.query_tower.requests == []
    fused = ["--ranking", "fused", "--text", "east", "--feature", "age=0"]
    assert main(["retrieve", *world.flags, *fused, "--fusion-constant", "7"]) == 0
    (search,) = world.ann.requests[-1].searches
    assert (search.text, search.ranking, list(search.embedding.values)) == ("east", ann_pb2.RANKING_FUSED, [1.0, 0.0])
    assert search.fusion_constant == 7
    assert main(["retrieve", *world.flags, "--ranking", "lexical"]) == 2
    assert "searches[0].text: is empty, and ranking is 'lexical'" in capsys.readouterr().err


def test_environment_gives_addresses_and_token(
    world: World, capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.ann.token = world.query_tower.token = "s3cret"
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("TWO_TOWER_QUERY_TOWER", world.query_tower_address)
    monkeypatch.setenv("TWO_TOWER_ANN", world.ann_address)
    assert main(["retrieve"]) == 1
    assert "wants a valid token" in capsys.readouterr().err
    monkeypatch.setenv("TWO_TOWER_TOKEN_FILE", str(tmp_path / "token"))
    assert main(["retrieve"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feature", "agee=1"], "two-tower: --feature: the model has no feature 'agee'; it has age, history\n"),
        (["--where", "hue=red"], "two-tower: --where: items have no attribute 'hue'; there are genres, title, year\n"),
        (["--k", "0"], "two-tower: searches[0].k: has to be a whole number of at least 1, got 0\n"),
        (["--cert-file", "x"], "two-tower: tls: `cert_file` and `key_file` go together; give both or none\n"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    world: World, capsys: Output, arguments: list[str], message: str
) -> None:
    assert main(["retrieve", *world.flags, *arguments]) == 2
    assert capsys.readouterr().err == message


def test_a_failure_is_one_line_and_exit_code_1(world: World, capsys: Output) -> None:
    world.ann.failures.append(bare(grpc.StatusCode.INTERNAL, "out of\nmemory"))
    assert main(["retrieve", *world.flags]) == 1
    assert re.fullmatch(
        r"two-tower: ipv4:127\.0\.0\.1:\d+ failed with INTERNAL; see its log \(out of memory\) "
        r"\(request [0-9a-f]{32}\)\n",
        capsys.readouterr().err,
    )


def test_control_characters_of_a_service_are_escaped(
    world: World, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TITLES, "east", "\x1b]0;owned\x07East")
    for form in ([], ["--json"]):
        assert main(["retrieve", *world.flags, "--attribute", "title", *form]) == 0
        out = capsys.readouterr().out
        assert "\\u001b]0;owned\\u0007East" in out
        assert "\x1b" not in out
    world.ann.failures.append(bad_request(("k\x1b[31m", "is\nred")))
    assert main(["retrieve", *world.flags]) == 2
    assert capsys.readouterr().err.startswith("two-tower: k\\u001b[31m: is red (request ")


def test_says_that_addresses_may_be_swapped(world: World, capsys: Output) -> None:
    assert main(["retrieve", "--query-tower", world.ann_address, "--ann", world.query_tower_address]) == 1
    assert "are not swapped" in capsys.readouterr().err


def test_no_bundle_yet(world: World, capsys: Output) -> None:
    world.query_tower.bundles = []
    assert main(["retrieve", *world.flags]) == 1
    assert capsys.readouterr().err.startswith("two-tower: the query tower has loaded no bundle yet")


def test_status_of_a_healthy_system(world: World, capsys: Output) -> None:
    assert main(["status", *world.flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:6] for line in lines[1:3]] == [
        ["query_tower", world.query_tower_address, "yes", "b1", "b1", "m1"],
        ["ann", world.ann_address, "yes", "b1", "b1", "m1"],
    ]
    assert lines[-1] == "ok: all replicas answer and agree"


def test_status_is_unhealthy_while_a_replica_loads(world: World, capsys: Output) -> None:
    world.ann.loading = "b2"
    assert main(["status", *world.flags]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[7] == "b2"
    assert lines[2].split()[8:10] == ["-", "1970-01-01T00:00:02Z"]
    assert lines[-1] == f"! {world.ann_address} is still loading b2"


def test_status_reports_the_faults_of_each_replica(world: World, capsys: Output) -> None:
    world.query_tower.problems = [("b2", "canaries", "cosine 0.3, at least 0.999")]
    port = free_port()
    addresses = ["--query-tower", world.query_tower_address, "--ann", f"{world.ann_address},127.0.0.1:{port}"]
    assert main(["status", *addresses, "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert status["ok"] is False
    assert [replica["error"] == "" for replica in status["replicas"]] == [True, True, False]
    assert status["faults"][0] == (
        f"{world.query_tower_address} refused b2 at gate 'canaries': cosine 0.3, at least 0.999"
    )
    assert f"127.0.0.1:{port} is unavailable" in status["faults"][1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["retire"],
        ["status", "--watch", "0"],
        ["wait"],
        ["wait", "--for", "b1", "--quorum", "0"],
        ["similar"],
        ["retrieve", "--k", "ten"],
        ["compare", "--from", "live", "--to", "previous"],
        ["compare", "--from", "live", "--to", "previous", "--queries", "q.jsonl", "--limit", "0"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_status_with_a_wrong_address_exits_with_2(capsys: Output) -> None:
    assert main(["status", "--ann", "localhost"]) == 2
    assert capsys.readouterr().err == (
        "two-tower: address: 'localhost' is not host:port, for instance localhost:50051\n"
    )


def test_watch_repeats_until_interrupted(world: World, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter([None, KeyboardInterrupt()])
    pauses_s = []

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)
        if (interrupt := next(pauses)) is not None:
            raise interrupt

    monkeypatch.setattr("two_tower_client.cli.commands.time", SimpleNamespace(sleep=pause, time=time.time))
    assert main(["status", *world.flags, "--watch"]) == 130
    output = capsys.readouterr()
    assert output.out.count("ok: all replicas answer and agree") == 2
    assert output.err == ""
    assert pauses_s == [2.0, 2.0]


def test_help_shows_an_example_of_every_command() -> None:
    text = make_parser().format_help()
    for command in ("retrieve", "similar", "status", "wait", "compare"):
        assert f"two-tower {command}" in text
        result = subprocess.run(
            [sys.executable, "-m", "two_tower_client", command, "--help"],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT / "clients")},
        )
        assert f"two-tower {command} " in result.stdout


def test_prints_the_version(capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"two-tower {(ROOT / 'clients' / 'VERSION').read_text()}"


def test_a_reader_that_ends_early_is_no_traceback() -> None:
    command = [sys.executable, "-m", "two_tower_client", "status", "--query-tower", "127.0.0.1:9", "--timeout-s", "0.2"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")
