"""The publish gates: what each refuses, figures in its message, and promotion with --force."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.layout import INDEX
from retrieval.bundle.manifest import GateResult, IndexSpec, Manifest
from retrieval.index import recall
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command, recipe
from tests.worlds import write_bundle
from trainer import __main__
from trainer.cli import commands
from trainer.errors import RecipeError
from trainer.evaluation.comparison import Comparison
from trainer.publishing import gates, index_selection

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

METRICS = {"ndcg@10": 0.20, "recall@100": 0.60}
POPULARITY = {"ndcg@10": 0.10, "recall@100": 0.40}
# Exactly what the default margin of a tenth allows: 0.9 * 0.2 = 0.18.
LIVE = {"ndcg@10": 0.20, "recall@100": 0.60}
VERSION = "20260101T000000Z-000000"


def judge(
    metrics: dict[str, float] = METRICS,
    popularity: dict[str, float] = POPULARITY,
    recall: float = 0.96,
    live: dict[str, float] = LIVE,
    never_retrieved: float = 0.5,
    others: dict[str, dict[str, float] | None] | None = None,
    **settings: Any,
) -> dict[str, GateResult]:
    comparison = Comparison(100, never_retrieved, 1.0, live=VERSION, live_metrics=live)
    return gates.judge(
        recipe(gates=settings), metrics, {"popularity": popularity, **(others or {})}, recall, comparison
    )


def failed(results: dict[str, GateResult]) -> list[str]:
    return [name for name, result in results.items() if not result.passed]


def test_good_bundle_passes_every_gate() -> None:
    results = judge()
    assert failed(results) == []
    assert list(results) == [
        "worse_than_live/ndcg@10",
        "worse_than_live/recall@100",
        "beats_popularity/ndcg@10",
        "beats_popularity/recall@100",
        "ann_recall",
        "never_retrieved",
    ]


@pytest.mark.parametrize(
    ("broken", "gate", "figure", "threshold"),
    [
        ({"metrics": {**METRICS, "ndcg@10": 0.17}}, "worse_than_live/ndcg@10", "0.1700", "0.1800"),
        ({"metrics": {**METRICS, "recall@100": 0.53}}, "worse_than_live/recall@100", "0.5300", "0.5400"),
        ({"popularity": {**POPULARITY, "ndcg@10": 0.20}}, "beats_popularity/ndcg@10", "0.2000", "0.2000"),
        ({"popularity": {**POPULARITY, "recall@100": 0.7}}, "beats_popularity/recall@100", "0.6000", "0.7000"),
        ({"recall": 0.94}, "ann_recall", "0.9400", "0.9500"),
        ({"never_retrieved": 0.31, "max_never_retrieved": 0.3}, "never_retrieved", "0.3100", "0.3000"),
    ],
)
def test_gate_refuses_what_breaks_exactly_it(broken: dict[str, Any], gate: str, figure: str, threshold: str) -> None:
    results = judge(**broken)
    assert failed(results) == [gate]
    assert f"{results[gate].figure:.4f}" == figure
    assert f"{results[gate].threshold:.4f}" == threshold
    assert figure in results[gate].message
    assert threshold in results[gate].message


def test_margin_itself_is_allowed() -> None:
    assert (
        failed(judge({"ndcg@10": 0.75, "recall@100": 0.75}, live=dict.fromkeys(METRICS, 1.0), max_loss_to_live=0.25))
        == []
    )


def test_gain_over_popularity_is_relative() -> None:
    # 1.5 * 0.4 = 0.6, which 0.6 is not above.
    assert failed(judge(min_gain_over_popularity=0.5)) == ["beats_popularity/recall@100"]


def test_gates_can_be_switched_off() -> None:
    nothing = dict.fromkeys(METRICS, 0.0)
    off = {"max_loss_to_live": 1.0, "min_gain_over_popularity": -1.0}
    assert failed(judge(nothing, never_retrieved=1.0, **off)) == []


def test_tiny_catalogue_in_which_everybody_finds_everything_passes() -> None:
    assert failed(judge({**METRICS, "recall@100": 1.0}, {**POPULARITY, "recall@100": 1.0})) == []


def test_bundle_without_a_live_one_to_compare_is_not_refused_for_it() -> None:
    assert [name for name in judge(live={}) if name.startswith("worse")] == []


@pytest.mark.parametrize("setting", [{"metrics": ["ndgc@10"]}, {"max_loss_to_live": 1.1}, {"margin": 0.1}])
def test_bad_setting_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="gates"):
        recipe(gates=setting)


# The store refuses, and remembers what was forced

FAILED = GateResult(0.1, 0.2, False, "ndcg@10 is 0.1000, at least 0.2000 is required")


def with_failed_gate(manifest: Manifest) -> Manifest:
    return replace(manifest, gates={"beats_popularity/ndcg@10": FAILED, "ann_recall": GateResult(1.0, 0.9, True, "")})


def test_promote_refuses_a_bundle_that_failed_and_keeps_the_live_one(store: FolderStore) -> None:
    good = write_bundle(store).bundle_version
    bad = write_bundle(store, promote=False, manifest=with_failed_gate).bundle_version
    with pytest.raises(BundleRefused, match=rf"0\.1000, at least 0\.2000.*{good} stays live.*--force") as caught:
        store.promote(bad)
    assert caught.value.gate == "beats_popularity/ndcg@10"
    assert store.live().version == good


def test_force_promotes_and_the_manifest_records_it(store: FolderStore) -> None:
    good = write_bundle(store).bundle_version
    bad = write_bundle(store, promote=False, manifest=with_failed_gate).bundle_version
    before = store.manifest(bad)
    assert store.promote(bad, force=True).open_versions == (bad, good)
    assert store.manifest(bad) == replace(before, forced_gates=("beats_popularity/ndcg@10",))
    store.verify(bad)
    assert store.roll_back().version == good
    assert store.promote(bad).version == bad  # decided before, and on record


def test_roll_back_asks_no_gate(store: FolderStore) -> None:
    bad = write_bundle(store, promote=False, manifest=with_failed_gate).bundle_version
    store.promote(bad, force=True)
    path = store.path(bad) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "forced_gates": []}))
    write_bundle(store)
    assert store.roll_back().version == bad


def test_force_does_not_get_past_damage(store: FolderStore) -> None:
    bad = write_bundle(store, promote=False, manifest=with_failed_gate).bundle_version
    path = store.path(bad) / INDEX
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleRefused, match="gate size"):
        store.promote(bad, force=True)
    assert store.manifest(bad).forced_gates == ()


def test_bundle_from_before_there_were_gates_is_read(store: FolderStore) -> None:
    version = write_bundle(store, promote=False).bundle_version
    path = store.path(version) / "manifest.json"
    raw = json.loads(path.read_text())
    del raw["gates"]
    path.write_text(json.dumps(raw))
    assert store.promote(version).version == version


@pytest.mark.parametrize("gate", [{"figure": 0.1}, {**vars(FAILED), "passed": "yes"}, {**vars(FAILED), "figure": "x"}])
def test_gate_that_cannot_be_read_is_not_passed(store: FolderStore, gate: dict[str, Any]) -> None:
    version = write_bundle(store, promote=False).bundle_version
    path = store.path(version) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "gates": {"ann_recall": gate}}))
    with pytest.raises(BundleRefused, match="damaged"):
        store.promote(version)


# End to end, on the trained shop


@pytest.fixture
def own_shop(shop: Shop, tmp_path: Path) -> Shop:
    shutil.copytree(shop.store.root, tmp_path / "store")
    runs = tuple(shutil.copytree(run, tmp_path / run.name) for run in shop.runs)
    return replace(shop, store=FolderStore(tmp_path / "store"), runs=runs)


def publish(shop: Shop, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **settings: Any) -> int:
    """Runs ``trainer publish`` as the shell would, with gates of its own, and returns the exit code."""
    path = shop.runs[1] / "run.json"
    raw = json.loads(path.read_text())
    raw["recipe"]["gates"] |= settings
    path.write_text(json.dumps(raw))
    monkeypatch.setattr(
        commands, "app", lambda: command("publish", shop.runs[1], "--store", shop.store.root, *arguments)
    )
    try:
        __main__.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_report_is_written_into_the_bundle(own_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    live = own_shop.store.live().version
    assert publish(own_shop, monkeypatch) == 0
    version = own_shop.store.versions()[-1]
    report = json.loads((own_shop.store.path(version) / "evaluation.json").read_text())
    manifest = own_shop.store.manifest(version)
    assert report["gates"]["ann_recall"] == vars(manifest.gates["ann_recall"])
    assert report["comparison"]["live"] == live
    assert report["comparison"]["not_comparable"] == ""
    # The live bundle, asked anew on the same data, does as well as it did when it was trained.
    before = own_shop.results[0]["metrics"]["two-tower"]
    assert report["comparison"]["live_metrics"] == pytest.approx(before, abs=1e-6)
    assert 0 < report["comparison"]["overlap_at_10"] < 1


def test_refusal_is_exit_code_1_and_says_what_to_do(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live = own_shop.store.live().version
    assert publish(own_shop, monkeypatch, "--promote", min_gain_over_popularity=50.0) == 1
    told = capsys.readouterr().err
    version = own_shop.store.versions()[-1]
    # 51 times popularity's ndcg@10 is far above 1, which is as high as a threshold goes.
    assert f"bundle {version} refused by gate beats_popularity/ndcg@10" in told
    assert "more than 1.0000 is required" in told
    assert f"{live} stays live" in told
    assert "--force" in told
    assert own_shop.store.live().version == live
    assert "failed gates" in command("bundles", "--store", own_shop.store.root, "--json")
    command("promote", version, "--store", own_shop.store.root, "--force")
    told = capsys.readouterr().err
    assert "FORCED past gate beats_popularity/ndcg@10" in told
    assert own_shop.store.live().version == version
    assert own_shop.store.manifest(version).forced_gates == ("beats_popularity/ndcg@10",)


def test_index_that_finds_too_little_is_refused(own_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    build = index_selection.build

    def wrong_vectors(vectors: np.ndarray, queries: np.ndarray, path: Path, **settings: Any) -> IndexSpec:
        return build(np.roll(vectors, 20, axis=0), queries, path, **settings)

    monkeypatch.setattr(index_selection, "build", wrong_vectors)
    monkeypatch.setattr(recall, "NEIGHBOURS", 5)  # of 40 items; 100 would be all of them
    assert publish(own_shop, monkeypatch, "--promote") == 1
    manifest = own_shop.store.manifest(own_shop.store.versions()[-1])
    assert manifest.failed_gates == ("ann_recall",)
    assert manifest.index.recall_at_100 == manifest.gates["ann_recall"].figure < 0.95


def test_model_that_is_worse_than_the_live_one_is_refused(own_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_shop.runs[1] / "query_tower.keras"
    tower = keras.saving.load_model(path, compile=False)
    generator = np.random.default_rng(1)
    tower.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in tower.get_weights()])
    tower.save(path)
    assert publish(own_shop, monkeypatch, "--promote", min_gain_over_popularity=-1.0) == 1
    manifest = own_shop.store.manifest(own_shop.store.versions()[-1])
    assert manifest.failed_gates == ("worse_than_live/ndcg@10",)


def test_other_baselines_have_to_be_reached() -> None:
    reached, missed = "reaches_item_knn/recall@100", "reaches_item_knn/ndcg@10"
    results = judge(others={"item_knn": {"ndcg@10": 0.21, "recall@100": METRICS["recall@100"]}})
    assert failed(results) == [missed]
    assert results[reached].passed
    assert results[missed].message.startswith("ndcg@10 is 0.2000, at least the 0.2100 of item_knn is required")


def test_a_baseline_that_could_not_be_fitted_fails_and_says_so() -> None:
    results = judge(others={"ease": None})
    assert failed(results) == ["reaches_ease/ndcg@10", "reaches_ease/recall@100"]
    assert "ease could not be fitted here" in results["reaches_ease/ndcg@10"].message
