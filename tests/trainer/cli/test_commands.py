"""Commands of the trainer on a small data set: results, reproducibility with equal seeds, and error messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bundle.errors import BundleRefused, NothingToRollBack
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer.errors import RunError

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture
def store(shop: Shop, tmp_path: Path) -> FolderStore:
    """A copy of the shop's store: two bundles, the first one live."""
    shutil.copytree(shop.store.root, tmp_path / "store")
    return FolderStore(tmp_path / "store")


def process(*arguments: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )


def test_train_publishes_a_complete_bundle_and_promotes_it(shop: Shop) -> None:
    first, second = shop.versions
    live = shop.store.live()
    assert live is not None
    assert live.open_versions == (first,)
    assert shop.store.versions() == [first, second]
    manifest = shop.store.verify(first)
    assert (manifest.dimension, manifest.item_count, manifest.seed) == (8, 40, 1)
    assert manifest.metrics == shop.results[0]["metrics"]["two-tower"]
    assert manifest.index.recall_at_100 >= 0.95
    assert {name.split("/")[0] for name in manifest.files} >= {
        "query_tower.tflite", "query_tower", "item_tower.keras", "vocabularies.json", "vectors.npy", "index.ann",
        "items.npz", "canaries.json", "evaluation.json",
    }  # fmt: skip
    vectors = np.load(shop.store.path(first) / "vectors.npy")
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0] * 40, abs=1e-5)


def test_the_towers_learn_what_popularity_cannot(shop: Shop) -> None:
    # The genre of a user shows in the history alone. Popularity finds the item at about 10 of 30 candidates.
    for result in shop.results:
        metrics = result["metrics"]
        assert metrics["two-tower"]["ndcg@10"] > metrics["popularity"]["ndcg@10"] + 0.1
        assert (result["user_count"], result["cold_user_count"], result["repeat_share"]) == (60, 0, 0.0)


def test_evaluate_counts_repeats_as_told(shop: Shop) -> None:
    told = [
        json.loads(command("evaluate", shop.runs[0], way, "--json"))["repeats"] for way in ("--repeats", "--no-repeats")
    ]
    assert told == [True, False]


def test_what_was_asked_for_is_on_stdout_and_all_else_on_stderr(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    listed = command("bundles", "--store", shop.store.root)
    assert all(version in listed for version in shop.versions)
    assert capsys.readouterr().err == ""
    evaluated = command("evaluate", shop.runs[0], "--no-baselines")
    assert "95 % intervals" in evaluated
    assert "density" not in evaluated  # of the summary of the data, which nobody asked for
    assert "density" in capsys.readouterr().err


def test_with_json_the_table_is_on_stderr(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    command("bundles", "--store", shop.store.root, "--json")  # whose stdout other tests read
    told = capsys.readouterr().err
    assert all(version in told for version in shop.versions)


def test_a_list_that_nobody_reads_to_its_end_is_no_success(shop: Shop) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    listed = subprocess.run(
        [sys.executable, "-m", "trainer", "bundles", "--store", str(shop.store.root)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    os.close(writing)
    assert (listed.returncode, listed.stderr) == (141, "")


def test_bundles_are_listed_for_machines_too(shop: Shop) -> None:
    rows = json.loads(command("bundles", "--store", shop.store.root, "--json"))
    assert [row["bundle"] for row in rows] == sorted(shop.store.versions(), reverse=True)
    assert all(row.keys() == {"bundle", "state", "model", "items", "ndcg@10", "index_recall"} for row in rows)
    assert [row["state"] for row in rows].count("live") == 1


def test_a_bundle_without_the_listed_metric_is_listed_without_it(store: FolderStore) -> None:
    manifest = store.path(store.versions()[0]) / "manifest.json"
    raw = json.loads(manifest.read_text())
    del raw["metrics"]["ndcg@10"]
    manifest.write_text(json.dumps(raw))
    assert json.loads(command("bundles", "--store", store.root, "--json"))[-1]["ndcg@10"] is None


def test_a_finished_run_is_not_replaced_and_no_table_read_before_that_is_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("trainer.data.sources.read")
    before = {path.name: path.stat().st_mtime_ns for path in shop.runs[0].iterdir()}
    expected = (
        "holds a finished run; name another folder with --run, or remove this one; to make a bundle of it: .* publish"
    )
    with pytest.raises(RunError, match=expected):
        command("train", shop.recipe, "--run", shop.runs[0])
    assert {path.name: path.stat().st_mtime_ns for path in shop.runs[0].iterdir()} == before


def test_same_seed_gives_the_same_metrics_vectors_and_index(shop: Shop, tmp_path: Path) -> None:
    again = json.loads(
        command("train", shop.recipe, "--store", tmp_path / "again", "--run", tmp_path / "run", "--json")
    )
    assert again["metrics"] == shop.results[0]["metrics"]
    assert again["metrics"] != shop.results[1]["metrics"]
    for name in ("vectors.npy", "index.ann", "items.npz", "vocabularies.json", "canaries.json"):
        files = [
            folder / name
            for folder in (
                FolderStore(tmp_path / "again").path(again["bundle_version"]),
                shop.store.path(shop.versions[0]),
            )
        ]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_evaluate_gives_what_train_gave(shop: Shop, tmp_path: Path) -> None:
    run = shutil.copytree(shop.runs[0], tmp_path / "run")
    found = json.loads(command("evaluate", run, "--baselines", "--json"))
    assert found["metrics"] == shop.results[0]["metrics"]
    assert set(found["metrics"]) > {"two-tower", "popularity", "EASE", "ItemKNN", "iALS"}
    assert json.loads((run / "evaluation.json").read_text()) == found


def test_publish_makes_another_bundle_of_the_same_model(shop: Shop, store: FolderStore) -> None:
    found = json.loads(command("publish", shop.runs[1], "--store", store.root, "--promote", "--json"))
    first, second = shop.versions
    live = store.live()
    assert live is not None
    assert live.open_versions == (found["bundle_version"], first)
    manifest = store.verify(found["bundle_version"])
    assert manifest.model_version == store.manifest(second).model_version
    assert manifest.parent_version == first
    for name in ("vectors.npy", "index.ann"):
        assert manifest.files[name] == store.manifest(second).files[name]


def test_bundles_are_promoted_rolled_back_and_pruned(
    shop: Shop, store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shop.versions

    def states() -> dict[str, str]:
        return {row["bundle"]: row["state"] for row in json.loads(command("bundles", "--store", store.root, "--json"))}

    assert states() == {second: "", first: "live"}
    command("promote", second, "--store", store.root)
    assert states() == {second: "live", first: "previous"}
    capsys.readouterr()
    command("prune", "--store", store.root, "--keep", 1)
    assert capsys.readouterr().err == (
        f"removed 0\nkept 2\n  {second}: live, one of the newest 1 (--keep)\n  {first}: previous, for a roll back\n"
    )
    assert set(states()) == {first, second}  # the one before the live one stays
    command("rollback", "--store", store.root)
    assert states() == {second: "", first: "live"}
    with pytest.raises(NothingToRollBack):
        command("rollback", "--store", store.root)
    shutil.copytree(store.path(first), store.path("20200101T000000Z-aaaaaa"))
    assert states() == {second: "", first: "live", "20200101T000000Z-aaaaaa": "damaged"}
    capsys.readouterr()
    command("prune", "--store", store.root, "--keep", 2)
    assert capsys.readouterr().err == (
        f"removed 1\n  20200101T000000Z-aaaaaa\nkept 2\n  {second}: one of the newest 2 (--keep)\n"
        f"  {first}: live, one of the newest 2 (--keep)\n"
    )
    assert set(states()) == {first, second}


def test_a_damaged_bundle_is_not_promoted(shop: Shop, store: FolderStore) -> None:
    first, second = shop.versions
    path = store.path(second) / "index.ann"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleRefused, match=r"index\.ann: sha256"):
        command("promote", second, "--store", store.root)
    live = store.live()
    assert live is not None
    assert live.version == first


def test_a_store_without_bundles_lists_none(tmp_path: Path) -> None:
    assert json.loads(command("bundles", "--store", tmp_path, "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "films"),
            "no recipe 'films': expected one of amazon_beauty, complete_journey, complete_journey_repeats, "
            "movielens_100k, product_search, or the path",
        ),
        (("promote", "20200101T000000Z-aaaaaa", "--store", "none"), "none holds no bundle 20200101T000000Z-aaaaaa"),
        (("promote", "../x", "--store", "none"), "'../x' is not a version"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = process(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no finished run"):
        command("evaluate", tmp_path)


def test_data_that_is_not_there_is_one_line_and_exit_code_1(shop: Shop, tmp_path: Path) -> None:
    done = process("train", shop.recipe, "--data", tmp_path, folder=tmp_path)
    assert done.returncode == 1
    assert "products.csv: no such file; check the path: --interactions, --items and --users name a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_whose_tables_are_all_named_needs_no_data_folder(tmp_path: Path) -> None:
    lines = "".join(
        f"u{user} i{user % 5} i{(user + 1) % 5} i{(user + 2) % 5} i{(user + 3) % 5}\n" for user in range(40)
    )
    (tmp_path / "Toys.txt").write_text(lines)
    (tmp_path / "tags.json").write_text(json.dumps({f"i{item}": [item] for item in range(5)}))
    done = process("train", "amazon_beauty", "--interactions", "Toys.txt", folder=tmp_path)
    assert done.returncode == 1
    assert "name the folder that holds" in done.stderr
    named = ("--interactions", "Toys.txt", "--items", "tags.json")
    done = process("train", "amazon_beauty", *named, "--epochs", 1, "--no-refit", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = Path(json.loads(done.stdout)["run"])
    assert (tmp_path / saved).is_dir()


def test_only_json_is_written_to_stdout(store: FolderStore, tmp_path: Path) -> None:
    done = process("bundles", "--store", store.root, "--json", folder=tmp_path)
    assert done.returncode == 0
    assert [row["state"] for row in json.loads(done.stdout)] == ["", "live"]


def test_quality_trains_several_seeds_and_keeps_nothing(shop: Shop, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(command("quality", shop.recipe, "--seeds", 2, "--refit-only", "--json"))
    assert len(found["fitted"]) == len(found["training_seconds"]) == 2
    first, second = (each["metrics"] for each in found["fitted"])
    assert {"two-tower", "popularity", "ItemKNN", "EASE", "iALS"} <= set(first)
    assert first["two-tower"] != second["two-tower"]
    assert first["EASE"] == second["EASE"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="--seeds is 0, expected at least 1"):
        command("quality", shop.recipe, "--seeds", 0)
