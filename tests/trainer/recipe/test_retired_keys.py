"""Renamed and removed recipe keys: refused with advice in a person's recipe, migrated in stored recipes."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command, recipe
from trainer.errors import RecipeError, RunError
from trainer.recipe import loading, retired_keys
from trainer.recipe.feature_inputs import HistoryInput
from trainer.training import checkpoints
from trainer.training.checkpoints import Origin, State
from trainer.training.saved_run import Run

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def stored(popularity: str = "none", encoder: str = "positions", interests: int = 1) -> dict[str, Any]:
    """Returns the shop's recipe as earlier trainers stored it."""
    raw = recipe().to_json()
    raw["training"] |= {"popularity": popularity, "popularity_half_life_days": 30.0}
    raw["query_tower"]["interests"] = interests
    raw["query_tower"]["features"][0] |= {"encoder": encoder, "half_life_days": 30.0}
    return raw


USED = [
    (stored("recent"), 'training.popularity = "recent"'),
    (stored("all_time", "age_decay"), 'training.popularity = "all_time" and encoder = "age_decay" of history'),
    (stored(encoder="age_decay"), 'encoder = "age_decay" of history'),
    (stored(interests=3), "query_tower.interests = 3"),
]
"""Recipes whose towers have layers that no longer exist, and what is said of them."""


def test_a_renamed_key_is_told_its_new_name() -> None:
    raw = recipe().to_json()
    raw["training"]["members"] = 3
    with pytest.raises(RecipeError, match=r"mine: 1 key to mend .*\n  training\.members: is now called ensemble_size$"):
        loading.parse(raw, "mine")
    raw = recipe().to_json()
    raw["query_tower"]["features"][0]["values"] = [{"kind": "gap"}]
    with pytest.raises(RecipeError, match=r"query_tower\.features\['history'\]\.values: is now called event_features$"):
        loading.parse(raw, "mine")


def test_a_stored_recipe_without_only_listed_keeps_items_that_are_not_listed() -> None:
    raw = recipe().to_json()
    assert loading.parse_stored(raw, "run").items == recipe().items
    del raw["items"]["only_listed"]
    items = loading.parse_stored(raw, "run").items
    assert items is not None
    assert not items.only_listed


def test_a_stored_recipe_keeps_the_values_of_renamed_keys() -> None:
    raw = recipe().to_json()
    training, history = raw["training"], raw["query_tower"]["features"][0]
    for old, new in (("members", "ensemble_size"), ("binary_share", "bce_weight")):
        del training[new]
        training[old] = {"members": 3, "binary_share": 0.5}[old]
    training["loss"] = "sampled_softmax"
    del history["event_features"], history["event_feature_dropout"]
    history |= {"values": [{"kind": "gap"}], "values_dropout": 0.4}
    history["description"] = "ids of the items the user met before, oldest first; missing: a new user"
    migrated = loading.parse_stored(raw, "stored")
    assert (migrated.training.ensemble_size, migrated.training.bce_weight) == (3, 0.5)
    read = migrated.query_tower.features[0]
    assert isinstance(read, HistoryInput)
    assert ([feature.kind for feature in read.event_features], read.event_feature_dropout) == (["gap"], 0.4)
    assert read.description == "ids of the items that the user interacted with, oldest first; missing: a new user"


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
        loading.parse(raw, "mine")


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("half_life_days", 30.0, "no longer a key: only the encoder age_decay read it, which no longer exists; remove"),
        ("encoder", "age_decay", "the encoder age_decay no longer exists, .*; use positions, the default"),
    ],
)
def test_so_are_those_of_a_history(key: str, value: Any, advice: str) -> None:
    raw = recipe().to_json()
    raw["query_tower"]["features"][0][key] = value
    place = rf"query_tower\.features\['history'\]\.{key}"
    with pytest.raises(RecipeError, match=rf"mine: 1 key to mend .*\n  {place}: {advice}"):
        loading.parse(raw, "mine")


def test_several_interests_are_to_be_removed() -> None:
    with pytest.raises(
        RecipeError, match=r"query_tower\.interests: no longer a key, as no data set gained .*; remove it"
    ):
        recipe(query_tower={"interests": 1})


@pytest.mark.parametrize("raw", [stored(), *(raw for raw, _ in USED)])
def test_a_stored_recipe_is_read_without_them_and_stays_as_it_is(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    assert loading.parse_stored(raw, "stored") == recipe()
    assert raw == before


def test_only_values_that_shaped_the_towers_count_as_used() -> None:
    assert retired_keys.unsupported(recipe().to_json()) == []
    assert retired_keys.unsupported(stored()) == []
    for raw, said in USED:
        assert " and ".join(retired_keys.unsupported(raw)) == said


@pytest.mark.parametrize(
    "raw", [{}, {"training": 3}, {"query_tower": {"features": [3]}}, {"query_tower": {"features": None}}]
)
def test_damaged_recipes_are_left_to_the_parser(raw: dict[str, Any]) -> None:
    assert retired_keys.migrate(raw) == raw
    assert retired_keys.unsupported(raw) == []


def with_recipe(run: Path, target: Path, raw: dict[str, Any]) -> Path:
    """Returns a copy of a run whose stored recipe is another one."""
    shutil.copytree(run, target)
    head = json.loads((target / "run.json").read_text())
    (target / "run.json").write_text(json.dumps({**head, "recipe": raw}))
    return target


def test_a_run_that_did_not_use_them_opens(shop: Shop, tmp_path: Path) -> None:
    run = Run.load(with_recipe(shop.runs[0], tmp_path / "run", stored()))
    assert run.model.recipe == recipe()


@pytest.mark.parametrize(("raw", "said"), USED)
def test_a_run_whose_towers_need_them_is_refused_with_what_to_do(
    shop: Shop, tmp_path: Path, raw: dict[str, Any], said: str
) -> None:
    folder = with_recipe(shop.runs[0], tmp_path / "run", raw)
    told = rf"run: its towers were trained with {said}, .*; train again without it\. Bundles published"
    with pytest.raises(RunError, match=told):
        command("evaluate", folder)


@pytest.mark.parametrize("raw", [stored(), *(raw for raw, _ in USED)])
def test_a_bundle_takes_new_items_and_keeps_the_recipe_as_it_was_stored(
    shop: Shop, tmp_path: Path, raw: dict[str, Any]
) -> None:
    store = FolderStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    manifest = replace(store.manifest(base), recipe=raw)
    (store.path(base) / "manifest.json").write_text(manifest.to_json())
    (tmp_path / "new.csv").write_text("product,title,year,genres\nz1,New,1999,horror\n")
    told = command("add-items", "--store", store.root, "--items", tmp_path / "new.csv", "--promote", "--json")
    version = json.loads(told)["bundle_version"]
    assert store.live().version == version
    added = store.verify(version)
    assert added.recipe == raw
    assert ItemTable.read(store.path(version) / ITEMS, added.attributes).ids[-1] == "z1"


def test_a_checkpoint_is_resumed_where_they_were_not_used(tmp_path: Path) -> None:
    own = Origin(recipe().to_json(), "of events")
    checkpoints.write(tmp_path, Origin(stored(), "of events"), State(best_epoch=3), [])
    assert checkpoints.read(tmp_path, own, []).best_epoch == 3
    for raw, _ in USED:
        checkpoints.write(tmp_path, Origin(raw, "of events"), State(), [])
        with pytest.raises(RunError, match=r"another training: .* no longer exists"):
            checkpoints.read(tmp_path, own, [])
