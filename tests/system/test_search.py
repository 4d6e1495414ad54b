"""A trained search recipe served by both services: metrics of each ranking equal the evaluation; also the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval.store.folder_store import FolderStore
from testbed import served_search
from testbed.services import ROOT
from tests.harness import ann_service, query_tower_service
from tests.trainer.search_world import COLOURS, KINDS, write_search_shop
from tests.trainer.text.checkpoints import write_checkpoint
from tests.trainer.world import KERAS_AND_NUMPY, command
from trainer.evaluation import graded_queries
from trainer.text import building
from two_tower_client import Retriever

pytestmark = [
    pytest.mark.filterwarnings(KERAS_AND_NUMPY),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras_hub"),
]

METHODS = {"BM25": "BM25", "towers": "two-tower", "towers and BM25": "two-tower + BM25"}
"""Names of the rankings in the demo, and the names of the same methods in the evaluation."""


def write_grades(path: Path) -> Path:
    """Writes graded queries to a file, and returns its path.

    Products of the queried kind have grade 1, and grade 3 if they also have the queried colour. Half of the queries
    have grades for a few products only.
    """
    rows = ["query,docid,rating"]
    for number, (kind, colour) in enumerate((kind, colour) for kind in KINDS for colour in COLOURS):
        for at in range(24):
            same_kind, same_colour = KINDS[at // 3 % 4] == kind, COLOURS[at % 3] == colour
            if number % 2 == 0 or at % 5 == 0:
                rows.append(f"{colour} {kind},p{at:02},{3 if same_kind and same_colour else int(same_kind)}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with store, run, tables and graded queries, and the metrics that the command ``evaluate`` wrote."""
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(building, "_frozen", {})
        recipe = write_search_shop(folder / "data", write_checkpoint(folder / "checkpoint"), 'mode = "frozen"')
        recipe.write_text(recipe.read_text() + "\n[search]\nserve = true\n")
        grades = write_grades(folder / "data" / "queries_dev.csv")
        command("train", recipe, "--store", folder / "store", "--run", folder / "run", "--promote")
        found = json.loads(command("evaluate", folder / "run", "--qrels", grades, "--json"))
    return folder, found


def test_served_rankings_are_as_good_as_the_evaluation_says(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, found = trained
    store, queries = FolderStore(folder / "store"), graded_queries.read(folder / "data" / "queries_dev.csv", None)
    live = store.live()
    assert live is not None
    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        query_tower.wait_for_bundle(live.version)
        ann.wait_for_bundle(live.version)
        with Retriever(f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}", timeout_s=10.0) as retriever:
            answers = [served_search.ask(retriever, "query", query) for query in queries.queries]
    measured = served_search.measure(queries, answers)
    for ranking, method in METHODS.items():
        for metric in ("ndcg@10", "recall@100", "mrr"):
            assert measured[ranking][metric] == pytest.approx(found["metrics"][method][metric], abs=1e-9)
    # The metrics of the three rankings differ; otherwise a mix-up of rankings would pass. Each word is in a third or a
    # quarter of the titles.
    assert len({round(metrics["ndcg@10"], 6) for metrics in measured.values()}) == 3


def test_new_items_are_found_by_their_words(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(trained[0] / "store", tmp_path / "store")
    store = FolderStore(tmp_path / "store")
    (tmp_path / "new.csv").write_text('product,title\nz1,"Éclair of brass"\np03,"A brass keyboard"\n')
    items = ("--items", tmp_path / "new.csv", "--remove-id", "p04")
    command("add-items", "--store", store.root, *items, "--promote")
    live = store.live()
    assert live is not None
    with ann_service(store) as ann:
        ann.wait_for_bundle(live.version)
        with Retriever(ann=f"127.0.0.1:{ann.port}", timeout_s=10.0) as retriever:
            brass = retriever.retrieve({}, text="brass eclairs", ranking="lexical")
            assert (brass.item_ids, brass.bundle_version) == (("z1", "p03"), live.version)
            # p03 was the black mouse with the number 03, and p04 was withdrawn.
            assert retriever.retrieve({}, text="03 04", ranking="lexical").item_ids == ()


def test_the_demo_prints_products_with_grades_and_ends(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    command_line = [sys.executable, "-m", "examples.demo_search", "--data", str(folder / "data")]
    done = subprocess.run(
        [*command_line, "--store", str(folder / "store"), "--queries", "2", "--k", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("black mouse")
    assert lines[at + 1].split("  ")[1] == "BM25"
    assert lines[at + 2].startswith("  3 The new black mouse")
    # Only two queries are shown, so the third one is not.
    assert ("white mouse" in lines, "red mouse" in lines) == (True, False)
    assert [line.split()[0] for line in lines[-3:]] == ["BM25", "towers", "towers"]


def test_the_demo_says_what_it_cannot_use(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "examples.demo_search", "--data", str(tmp_path)]
    done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("demo-search: ")
    assert "queries_dev.csv: cannot be read" in done.stderr
