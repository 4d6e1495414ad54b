"""Compares three kinds of request to one model: with a search text alone, with user features alone, and with both.

Each rating of MovieLens-100k gets a synthetic search that led to the film: one of its genres or a word of its title,
drawn at random. The shipped recipe is trained with the search text as a query feature in addition to history and
profile. Prints metrics on the test part for each kind of request. Exits with 1 unless text and user features together
beat each of them alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.cli.rich_progress import RichProgress
from trainer.data import sources, splits
from trainer.data.dataset import Dataset
from trainer.data.splits import Data
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

_TEXT = {"kind": "text", "checkpoint": "minilm", "mode": "frozen", "max_tokens": 32}
_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr")
BOTH, QUERY, USER, NOTHING = "all features", "text only", "all but the text", "nothing"
"""Names in `trainer.evaluation.evaluate` of the features that a request has."""


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.query_and_user", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings (default: 1)")
    arguments = parser.parse_args()
    import_tensorflow()
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.training.fit_and_refit import fit_and_choose

    shipped = loading.load("movielens_100k")
    folder = sources.data_folder(shipped, shipped.name)
    recipe = with_query(shipped)
    dataset = searched(sources.read(shipped, folder)[0])
    data = Data(dataset, splits.split(dataset, recipe.split))
    rows: list[dict[str, np.ndarray]] = []
    for seed in range(1, arguments.seeds + 1):
        with tempfile.TemporaryDirectory(prefix="two-tower-query-and-user-") as run_folder:
            seeded = dataclasses.replace(recipe, seed=seed)
            run = fit_and_choose(seeded, folder, data, Path(run_folder), resume=False, progress=RichProgress())
        found = evaluate_test(run.model, data, refitted=recipe.training.refit)
        rows.append({sent: np.array([of[name] for name in _METRICS]) for sent, of in found.inputs.items()})
    means = {sent: np.mean([row[sent] for row in rows], axis=0) for sent in rows[0]}
    print(f"\n| sent | {' | '.join(_METRICS)} |\n|---|{'---|' * len(_METRICS)}")
    for sent in (BOTH, QUERY, USER, NOTHING):
        print(f"| {sent} | {' | '.join(f'{value:.4f}' for value in means[sent])} |")
    return 0 if all((means[BOTH] > means[alone]).all() for alone in (QUERY, USER)) else 1


def with_query(recipe: Recipe) -> Recipe:
    """Returns the recipe with the search text as a query tower feature, and the title as an item tower feature."""
    raw = recipe.to_json()
    raw["checkpoints"] = loading.load("product_search").to_json()["checkpoints"]
    raw["interactions"]["attributes"]["query"] = {"column": "query"}
    # The search text has a feature dropout of a third, so that the tower learns from user features too. The profile
    # features have dropout already.
    raw["query_tower"]["features"] += [{**_TEXT, "name": "query", "dropout": 0.3, "description": "what was typed"}]
    raw["item_tower"]["features"] += [{**_TEXT, "name": "title"}]
    return loading.parse(raw, "movielens_100k with searches")


def searched(dataset: Dataset) -> Dataset:
    """Returns a copy of the data set in which each event has a search text; every call gives the same texts."""
    generator = np.random.default_rng(0)
    titles, genres = dataset.item_column("title"), dataset.item_column("genres")
    queries = np.empty(len(dataset.events), dtype=object)
    for event, item in enumerate(dataset.events.items.tolist()):
        queries[event] = _search(titles[item] or "", genres[item] or (), generator)
    events = dataset.events
    return dataclasses.replace(
        dataset, events=dataclasses.replace(events, attributes={**events.attributes, "query": queries})
    )


def _search(title: str, genres: Sequence[str], generator: np.random.Generator) -> str | None:
    words = re.findall(r"[^\W\d_]{4,}", title.lower()) or list(genres)
    options = (words, list(genres) or words)[int(generator.random() < 0.5)]
    return options[int(generator.integers(len(options)))].lower() if options else None


if __name__ == "__main__":
    sys.exit(main())
