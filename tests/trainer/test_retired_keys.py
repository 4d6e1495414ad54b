"""Keys that no longer exist: refused in a person's recipe, read past in what earlier trainings stored."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle.items import ItemTable
from bundle.manifest import ITEMS
from bundle.store import BundleStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command, recipe
from trainer import checkpoints, recipes, retired_keys
from trainer.checkpoints import Origin, State
from trainer.errors import RecipeError, RunError
from trainer.runs import Run

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def stored(popularity: str) -> dict[str, Any]:
    """Returns the shop's recipe as earlier trainers stored it."""
    raw = recipe().to_json()
    raw["training"] |= {"popularity": popularity, "popularity_half_life_days": 30.0}
    return raw


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("popularity", "recent", r"training\.prior_weight"),
        ("popularity", "none", r"training\.prior_weight"),
        ("popularity_half_life_days", 7.0, r"training\.prior_days"),
    ],
)
def test_a_persons_recipe_is_told_what_to_use_instead(key: str, value: Any, advice: str) -> None:
    raw = recipe().to_json()
    raw["training"][key] = value
    with pytest.raises(RecipeError, match=rf"mine: 1 key to mend .*\n  training\.{key}: no longer a key; use {advice}"):
        recipes.parse(raw, "mine")


@pytest.mark.parametrize("raw", [stored("none"), stored("recent")])
def test_a_stored_recipe_is_read_without_them_and_stays_as_it_is(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    assert recipes.parse(retired_keys.without(raw), "stored") == recipe()
    assert raw == before


def test_only_values_that_shaped_the_towers_count_as_used() -> None:
    assert retired_keys.used(recipe().to_json()) == []
    assert retired_keys.used(stored("none")) == []
    assert retired_keys.used(stored("all_time")) == ['training.popularity = "all_time"']


@pytest.mark.parametrize("raw", [{}, {"training": 3}, {"training": None}])
def test_damaged_recipes_are_left_to_the_parser(raw: dict[str, Any]) -> None:
    assert retired_keys.without(raw) == raw
    assert retired_keys.used(raw) == []


def with_recipe(run: Path, target: Path, raw: dict[str, Any]) -> Path:
    """Returns a copy of a run whose stored recipe is another one."""
    shutil.copytree(run, target)
    head = json.loads((target / "run.json").read_text())
    (target / "run.json").write_text(json.dumps({**head, "recipe": raw}))
    return target


def test_a_run_that_did_not_use_them_opens(shop: Shop, tmp_path: Path) -> None:
    run = Run.load(with_recipe(shop.runs[0], tmp_path / "run", stored("none")))
    assert run.recipe == recipe()


def test_a_run_whose_towers_need_them_is_refused_with_what_to_do(shop: Shop, tmp_path: Path) -> None:
    folder = with_recipe(shop.runs[0], tmp_path / "run", stored("recent"))
    told = r'run: its towers were trained with training\.popularity = "recent", .*; train again without it\. Bundles'
    with pytest.raises(RunError, match=told):
        Run.load(folder)
    with pytest.raises(RunError, match=told):
        command("evaluate", folder)


@pytest.mark.parametrize("popularity", ["none", "recent"])
def test_a_bundle_takes_new_items_and_keeps_the_recipe_as_it_was_stored(
    shop: Shop, tmp_path: Path, popularity: str
) -> None:
    store = BundleStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    manifest = replace(store.manifest(base), recipe=stored(popularity))
    (store.path(base) / "manifest.json").write_text(manifest.to_json())
    (tmp_path / "new.csv").write_text("product,title,year,genres\nz1,New,1999,horror\n")
    told = command("add-items", "--store", store.root, "--items", tmp_path / "new.csv", "--promote", "--json")
    version = json.loads(told)["bundle_version"]
    assert store.live().version == version
    added = store.verify(version)
    assert added.recipe == stored(popularity)
    assert ItemTable.read(store.path(version) / ITEMS, added.attributes).ids[-1] == "z1"


def test_a_checkpoint_is_resumed_where_they_were_not_used(tmp_path: Path) -> None:
    own = Origin(recipe().to_json(), "of events")
    for popularity in ("none", "all_time"):
        checkpoints.write(tmp_path, Origin(stored(popularity), "of events"), State(), [])
        if popularity == "none":
            checkpoints.read(tmp_path, own, [])
        else:
            with pytest.raises(RunError, match=r'another training: training\.popularity = "all_time" no longer exists'):
                checkpoints.read(tmp_path, own, [])
