"""`tune-index`: measurements of indexes against the exact scan, and the recommended [index] table."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bundle.errors import BundleNotFound
from retrieval.store.folder_store import FolderStore
from tests.worlds import unit_vectors, write_bundle
from trainer.cli import index_commands
from trainer.cli.commands import app
from trainer.errors import ExportError
from trainer.recipe.recipe import Index
from trainer.tuning.index_sweep import MeasuredIndex, Point, perturb_items, recommend, to_recipe


def measured(kind: str, size: float, *points: tuple[float, float]) -> MeasuredIndex:
    given = [Point(number, recall, time, time) for number, (recall, time) in enumerate(points, 1)]
    parameters = {"annoy": {"trees": 25}, "faiss_ivf": {"lists": 40}}[kind]
    return MeasuredIndex(kind, {**parameters, "seed": 1}, 1.0, size, given)


SLOW = measured("annoy", 900.0, (0.9, 100.0), (0.97, 300.0))
QUICK = measured("faiss_ivf", 270.0, (0.8, 20.0), (0.96, 40.0), (0.99, 80.0))
AS_QUICK_AND_LARGE = measured("annoy", 800.0, (0.95, 38.0))


def test_recommends_what_finds_enough_soonest() -> None:
    assert recommend([SLOW, QUICK], 0.95) == (QUICK, QUICK.points[1])
    assert recommend([SLOW, QUICK], 0.98)[1].budget == 3


def test_of_those_about_as_quick_the_smaller_is_recommended() -> None:
    # 40 us is within a tenth of 38.
    assert recommend([AS_QUICK_AND_LARGE, QUICK], 0.95)[0] is QUICK


def test_says_so_where_none_finds_enough() -> None:
    with pytest.raises(ExportError, match=r"reaches recall 0\.999 .* the best has 0\.990"):
        recommend([SLOW, QUICK], 0.999)


@pytest.mark.parametrize("one", [SLOW, QUICK])
def test_recommendation_is_a_table_that_a_recipe_takes(one: MeasuredIndex) -> None:
    table: dict[str, Any] = tomllib.loads(to_recipe(one, 0.95))["index"]
    settings = Index(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})
    assert (settings.kind, settings.min_recall_at_100) == (one.kind, 0.95)
    assert (settings.trees == (25,)) == (one.kind == "annoy")
    assert (settings.lists == (40,)) == (one.kind == "faiss_ivf")


def test_made_queries_are_as_far_from_an_item_as_real_ones() -> None:
    vectors = unit_vectors(500, 1, 32)
    noise = unit_vectors(40, 2, 32)
    real = 0.8 * vectors[:40] + 0.6 * noise
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    made = perturb_items(vectors, real, 300)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)
    nearest = [float((vectors @ queries.T).max(axis=0).mean()) for queries in (real, made)]
    assert nearest[1] == pytest.approx(nearest[0], abs=0.02)


def test_tells_recall_time_size_and_build_of_each_kind_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "store")
    write_bundle(store, item_count=1500)
    monkeypatch.setattr(index_commands, "_QUERIES", 30)
    page = tmp_path / "page.html"
    arguments = ["tune-index", "--store", str(store.root), "--out", str(page), "--json"]
    app(arguments, exit_on_error=False, result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in told["indexes"]} == {"annoy", "faiss_hnsw", "faiss_ivf"}
    for one in told["indexes"]:
        recalls = [point["recall_at_100"] for point in one["points"]]
        assert recalls[-1] >= 0.95
        assert recalls[0] <= recalls[-1]
        assert one["build_s"] > 0
        assert one["bytes_per_item"] > 8 * 4  # the vector itself
    assert tomllib.loads(told["recommended"])["index"]["kind"] in {"annoy", "faiss_hnsw", "faiss_ivf"}
    text = page.read_text(encoding="utf-8")
    assert "(recommended)" in text
    assert "exact scan" in text
    assert 'src="http' not in text


def test_a_store_without_a_live_bundle_is_told_apart(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    write_bundle(store, promote=False)
    with pytest.raises(BundleNotFound, match="no bundle is live in"):
        index_commands.tune_index(store=store.root)


def test_storages_are_compared_and_the_recommended_one_is_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "store")
    write_bundle(store, item_count=1500)
    monkeypatch.setattr(index_commands, "_QUERIES", 30)
    monkeypatch.chdir(tmp_path)
    arguments = ["tune-index", "--store", str(store.root), "--json"]
    arguments += ["--kinds", "annoy", "faiss_ivf", "--storages", "float16", "int8"]
    app(arguments, exit_on_error=False, result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"index-{store.versions()[0]}.html"]
    assert [(one["kind"], one["storage"]) for one in told["indexes"]] == [
        *[("annoy", "float32")] * 4, ("faiss_ivf", "float16"), ("faiss_ivf", "int8")
    ]  # fmt: skip
    one = MeasuredIndex("faiss_ivf", {"lists": 40, "seed": 1}, 1.0, 80.0, QUICK.points, "int8")
    assert one.name == "faiss_ivf int8, lists 40"
    assert tomllib.loads(to_recipe(one, 0.95))["index"] == {
        "kind": "faiss_ivf", "storage": "int8", "min_recall_at_100": 0.95, "lists": [40]
    }  # fmt: skip
