"""The command line and the Python example of docs/search.md, against both running services."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from tests.harness import Running, ann_service, query_tower_service
from tests.worlds import wait_for, write_bundle


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of the query tower service and of the ANN service. Item i299 is the most popular one, then i298."""
    store = FolderStore(tmp_path_factory.mktemp("store"))
    write_bundle(store, popularity=lambda row: row)
    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        yield address(query_tower), address(ann)


def address(service: Running) -> str:
    wait_for(lambda: service.health() == "SERVING", "it serves")
    return f"127.0.0.1:{service.port}"


def run(*arguments: str) -> str:
    """Runs Python in a process of its own, and returns what it prints on stdout."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT / "clients", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_of_boosts_and_diversity_runs(addresses: tuple[str, str]) -> None:
    page = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    for wanted, ours in (("localhost:50051", addresses[0]), ("localhost:50052", addresses[1]), ("history", "watched")):
        assert wanted in code
        code = code.replace(wanted, ours)
    assert f'ann="{addresses[1]}")' in code
    code = code.replace(f'"{addresses[1]}")', f'"{addresses[1]}", timeout_s=30)')  # for a busy machine
    assert re.fullmatch(r"\('i\d+', .*\) \(0\.0.*\) \{'(comedy|drama)': \d+, .*\}\n", run("-c", code))


def test_excluded_ids_and_boosts_are_looked_up(addresses: tuple[str, str]) -> None:
    options = ["--exclude", "i299,i298", "gone", "--boost", "genres=Drama", "0.1", "--boost", "genres=drama", "1e-9"]
    for command in (["popular"], ["retrieve", "--query-tower", addresses[0], "--feature", "age=25", "--k", "300"]):
        answer = json.loads(run("-m", "two_tower_client", *command, "--ann", addresses[1], *options, "--json"))
        assert (answer["unknown_excluded"], answer["unmatched_boosts"]) == (["gone"], ["genres=Drama"])
        found = [item["item_id"] for item in answer["items"]]
        assert len(found) == (10 if command == ["popular"] else 298)
        assert not {"i299", "i298"} & set(found)
