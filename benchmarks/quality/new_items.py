"""Measures recall of new items: hides a tenth of the catalogue from training, so that only attributes describe it.

Trains on the remaining items and their events, once with the given dropout of `item_id` and once without dropout.
Prints Recall@100 on the validation part: of the hidden items, compared with a random ranking, and of the trained items,
with and without dropout. Exits with 1 unless the recall of hidden items is at least three times that of a random
ranking, and the dropout costs the trained items, ranked among themselves, at most 2 % of their recall.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable
from trainer.cli import console
from trainer.data import sources
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.data.splits import Data
from trainer.features.schemas import learn_schemas
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID, Recipe

_TIMES_RANDOM = 3.0
_MAX_LOSS = 0.02


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.new_items", description=__doc__)
    parser.add_argument("recipe", help="a shipped recipe, or the path of a TOML file")
    parser.add_argument("--data", type=Path, help="folder of the recipe's tables (default: its download)")
    parser.add_argument(
        "--share", type=float, default=0.1, help="share of the items to hide from training (default: 0.1)"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate of item_id (default: 0.1)")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings with each dropout rate (default: 3)")
    arguments = parser.parse_args()
    import_tensorflow()
    recipe = loading.load(arguments.recipe)
    data = sources.read(recipe, sources.data_folder(recipe, arguments.recipe, arguments.data))
    item_count = len(data.dataset.items.ids)
    hidden = np.random.default_rng(0).random(item_count) < arguments.share
    console.console.print(f"{hidden.sum():,} of {item_count:,} items are hidden from training")
    found: dict[float, list[tuple[float, ...]]] = {arguments.dropout: [], 0.0: []}
    for seed in range(1, arguments.seeds + 1):
        for dropout in found:
            seeded = _with_dropout(dataclasses.replace(recipe, seed=seed), dropout)
            found[dropout].append(measure(seeded, data, hidden))
            new, old, alone = found[dropout][-1]
            print(
                f"seed {seed}, dropout {dropout}: Recall@100 of new items {new:.4f}, of trained ones {old:.4f}, "
                f"of those among themselves {alone:.4f}"
            )
    users = np.unique(data.parts.train.users)
    known = len(data.parts.train.pairs) / len(users)
    random = 100 / (item_count - known)
    means = {dropout: np.mean(figures, axis=0) for dropout, figures in found.items()}
    print(
        f"\n| item_id dropout | new items | times random ({random:.4f}) | trained items | among themselves |\n"
        "|---|---|---|---|---|"
    )
    for dropout, (a, b, c) in means.items():
        print(f"| {dropout} | {a:.4f} | {a / random:.1f} | {b:.4f} | {c:.4f} |")
    new = means[arguments.dropout][0]
    loss, alone = (1 - means[arguments.dropout][1:] / means[0.0][1:]).tolist()
    print(
        f"\ntrained items lose {alone:.1%} among themselves, at most {_MAX_LOSS:.0%} (to new ones and all {loss:.1%}); "
        f"new ones: {_TIMES_RANDOM:.0f} times random"
    )
    return 0 if new >= _TIMES_RANDOM * random and alone <= _MAX_LOSS else 1


def _with_dropout(recipe: Recipe, dropout: float) -> Recipe:
    raw = recipe.to_json()
    for feature in raw["item_tower"]["features"]:
        if feature["name"] == ITEM_ID:
            feature["dropout"] = dropout
    return loading.parse(raw, "the recipe with another dropout")


def without(dataset: Dataset, train: Events, hidden: np.ndarray) -> tuple[Dataset, Events]:
    """Returns a data set and training events without the hidden items; the remaining items are renumbered.

    Hidden items are removed from the catalogue because they would otherwise be sampled as negatives, and training would
    learn from their attributes that they are irrelevant.

    Args:
        dataset: data set with all items.
        train: training events over all items.
        hidden: [item_count] bool, whether to remove the item.
    """
    rows = np.flatnonzero(~hidden)
    names = dataset.items.attributes
    attributes = {name: type(names[name]).of([names[name].at(row) for row in rows.tolist()]) for name in names}
    items = ItemTable.of([dataset.items.ids[row] for row in rows.tolist()], attributes)
    known = train.where(~hidden[train.items])
    renumbered = (np.cumsum(~hidden) - 1).astype(np.int32)  # [item_count]
    return dataclasses.replace(dataset, items=items), dataclasses.replace(known, items=renumbered[known.items])


def measure(recipe: Recipe, data: Data, hidden: np.ndarray) -> tuple[float, ...]:
    """Trains a recipe without the hidden items, and returns three values of Recall@100 on the validation part.

    Args:
        recipe: recipe to train.
        data: data set and its parts.
        hidden: [item_count] bool, whether the item is hidden from training.

    Returns:
        Recall of the hidden items, and recall of the trained items, both in rankings of the whole catalogue; then
        recall of the trained items in rankings of the trained items only.
    """
    from trainer.evaluation.evaluate import Task
    from trainer.evaluation.metrics import HeldOut, evaluate
    from trainer.model.trained_model import TrainedModel
    from trainer.training.fit import fit

    dataset, parts = data
    before, train = without(dataset, parts.train, hidden)
    schemas = learn_schemas(recipe, before, train)
    fitted = fit(recipe, before, schemas, train, validate=None)
    model = TrainedModel(recipe, schemas, fitted.towers)
    score = Task(model, dataset, parts.train, parts.valid).scorer()
    pairs = parts.valid.pairs
    known = parts.train.pairs
    new, old = (HeldOut.of(known, pairs[of[pairs[:, 1]]], len(hidden)) for of in (hidden, ~hidden))

    def alone(users: np.ndarray) -> np.ndarray:
        return np.where(hidden, np.float32(-np.inf), score(users))

    asked = ((new, score), (old, score), (old, alone))
    return tuple(evaluate(held_out, how).means["recall@100"] for held_out, how in asked)


if __name__ == "__main__":
    sys.exit(main())
