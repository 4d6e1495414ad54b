"""Writing a recipe as TOML and reading it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml_writer import to_toml

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in ("id", "item_id"))
texts = st.text(max_size=12)
columns = st.text(min_size=1, max_size=8)
shares = st.floats(0.0, 0.99)
positive = st.floats(min_value=1e-12, max_value=1e12)
INPUTS = {"string": "categorical", "int": "numeric", "float": "numeric", "string_list": "multi_categorical"}


@st.composite
def some_recipes(draw: st.DrawFn) -> Recipe:
    """Recipes with attributes of all types, each read by a feature, and keys of any value."""
    attribute = st.fixed_dictionaries(
        {"column": columns, "type": st.sampled_from(list(INPUTS))},
        optional={"separator": columns, "missing": st.lists(texts, max_size=3)},
    )
    attributes = draw(st.dictionaries(names, attribute, max_size=4))
    features = [
        {"name": name, "kind": INPUTS[keys["type"]], "dropout": draw(shares), "description": draw(texts)}
        for name, keys in attributes.items()
    ]
    history = {"name": "history", "kind": "history", "items": draw(st.sampled_from(["tied", "own", "tower"]))}
    raw: dict[str, Any] = {
        "name": draw(names),
        "origin": draw(texts),
        "seed": draw(st.integers(0, 2**31 - 1)),
        "interactions": {
            "path": draw(texts),
            "user": draw(columns),
            "item": draw(columns),
            "rating": draw(columns),
            "min_rating": draw(st.none() | st.floats(-1e300, 1e300)),
            "time": draw(st.none() | columns),
            "quote": draw(st.text(max_size=1)),
        },
        "items": {"path": draw(texts), "id": draw(columns), "attributes": attributes},
        "query_tower": {"features": [history], "hidden_units": draw(st.lists(st.integers(1, 999), max_size=3))},
        "item_tower": {"features": [{"name": "item_id", "kind": "categorical"}, *features], "dropout": draw(shares)},
        "training": {
            "learning_rate": draw(positive),
            "temperature": draw(positive),
            "refit": draw(st.booleans()),
            "metric": draw(st.sampled_from(["ndcg@10", "mrr"])),
        },
        "gates": {"metrics": draw(st.lists(st.sampled_from(["mrr", "hr@10"]), min_size=1, max_size=2))},
    }
    return loading.parse(raw, "drawn")


@settings(deadline=None)
@given(recipe=some_recipes(), comment=texts)
def test_any_recipe_reads_back_the_same(recipe: Recipe, comment: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn.toml"
    path.write_text(to_toml(recipe, comment), encoding="utf-8")
    assert loading.load(str(path)) == recipe


@pytest.mark.parametrize("name", loading.shipped())
def test_a_shipped_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(loading.load(name)), encoding="utf-8")
    assert loading.load(str(path)) == loading.load(name)
