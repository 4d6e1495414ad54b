"""Measures whether a title makes new items retrievable: hides some films from training, then measures their recall.

Trains two models on MovieLens-100k, each without and with the title as a text feature. The items of the first model
have no feature but their id; those of the second one, of the shipped recipe, also have year and genres. Prints
Recall@100 on the validation part, of the hidden films and of the others. Exits with 1 unless the recall of hidden films
by the first model is at least three times as high with the title as without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.new_items import measure
from trainer.cli import console
from trainer.data import sources
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

_TIMES = 3.0
_TITLE = {"name": "title", "kind": "text", "checkpoint": "minilm", "mode": "frozen", "max_tokens": 32}
_ID_DROPOUT = 0.1
"""Feature dropout of item_id in training, since a new item has no item_id that the model knows."""


def main() -> int:
    """Runs the measurement and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.new_text_items", description=__doc__)
    parser.add_argument(
        "--share", type=float, default=0.2, help="share of the films to hide from training (default: 0.2)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings of each model (default: 3)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    import_tensorflow()
    recipe = loading.load("movielens_100k")
    data = sources.read(recipe, sources.data_folder(recipe, recipe.name))
    hidden = np.random.default_rng(0).random(len(data.dataset.items.ids)) < arguments.share
    console.console.print(f"{hidden.sum():,} of {len(hidden):,} films are hidden from training")
    models = {
        (name, text): variant(recipe, keep, text=text)
        for name, keep in (("id alone", ("item_id",)), ("id, year, genres", ("item_id", "year", "genres")))
        for text in (False, True)
    }
    found: dict[tuple[str, bool], list[tuple[float, ...]]] = {key: [] for key in models}
    for seed in range(1, arguments.seeds + 1):
        for key, model in models.items():
            found[key].append(measure(dataclasses.replace(model, seed=seed), data, hidden))
            console.console.print(f"seed {seed}, {key[0]}{' and title' if key[1] else ''}: {found[key][-1]}")
    print("\n| item tower | hidden films | the others |\n|---|---|---|")
    means = {key: np.mean(values, axis=0) for key, values in found.items()}
    for (name, text), (new, old, _) in means.items():
        print(f"| {name}{', and title' if text else ''} | {new:.4f} | {old:.4f} |")
    times = means["id alone", True][0] / max(means["id alone", False][0], 1e-9)
    print(f"\nwith the title hidden films are found {times:.1f} times as often; the target is {_TIMES:.0f} times")
    if arguments.json:
        rows: list[dict[str, Any]] = [{"model": n, "text": t, "found": v} for (n, t), v in found.items()]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if times >= _TIMES else 1


def variant(recipe: Recipe, keep: tuple[str, ...], *, text: bool) -> Recipe:
    """Returns a copy of the recipe whose item tower reads the features named in `keep`, and the title if `text`."""
    raw = recipe.to_json()
    raw["checkpoints"] = loading.load("product_search").to_json()["checkpoints"]
    features = [feature for feature in raw["item_tower"]["features"] if feature["name"] in keep]
    for feature in features:
        if feature["name"] == "item_id":
            feature["dropout"] = _ID_DROPOUT
    raw["item_tower"]["features"] = features + ([_TITLE] if text else [])
    return loading.parse(raw, "movielens_100k with titles")


if __name__ == "__main__":
    sys.exit(main())
