"""Several interests: trains a recipe with one vector a query and with several, and shows what that does on validation.

The same events, epochs and seed for all; the test part is not looked at. The mean cosine is that of two interests of a
user: near 1 they have collapsed into one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from trainer import console, recipes, schema, sources
from trainer.data import Dataset
from trainer.quiet import import_tensorflow
from trainer.recipe import Recipe
from trainer.splits import Parts

METRICS = ("ndcg@10", "recall@100", "coverage@10")


def main() -> int:
    """Runs the measurement and returns the exit code."""
    parser = argparse.ArgumentParser(prog="rehearsal.interests", description=__doc__)
    parser.add_argument("recipe", help="a shipped recipe, or the path of a TOML file")
    parser.add_argument("--data", type=Path, help="folder of its tables (default: its download)")
    parser.add_argument("--interests", type=int, nargs="+", default=[1, 2, 4], help="to train with (default: 1 2 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the trainings (default: 1)")
    arguments = parser.parse_args()
    import_tensorflow()
    recipe = dataclasses.replace(recipes.load(arguments.recipe), seed=arguments.seed)
    dataset, parts = sources.read(recipe, sources.data_folder(recipe, arguments.recipe, arguments.data))
    rows = []
    for count in arguments.interests:
        figures = measure(with_interests(recipe, count), dataset, parts)
        rows.append(f"| {count} | " + " | ".join(f"{value:.4f}" for value in figures) + " |")
        console.console.print(rows[-1])
    print(f"| interests | {' | '.join(METRICS)} | mean cosine |\n|---|---|---|---|---|")
    print("\n".join(rows))
    return 0


def with_interests(recipe: Recipe, count: int) -> Recipe:
    """Returns the recipe with so many interests."""
    raw = recipe.to_json()
    raw["query_tower"]["interests"] = count
    return recipes.parse(raw, "the recipe with other interests")


def measure(recipe: Recipe, dataset: Dataset, parts: Parts) -> tuple[float, ...]:
    """Returns `METRICS` on validation after the last epoch, and the mean cosine of a user's interests; of one, 1."""
    from trainer import training
    from trainer.embeddings import embed_queries, raw_queries
    from trainer.evaluation import evaluate_validation
    from trainer.interests import mean_cosine

    schemas = schema.build(recipe, dataset, parts.train)
    towers = training.fit(recipe, dataset, schemas, parts.train, validate=None).towers
    found = evaluate_validation(recipe, dataset, schemas, towers, parts)
    users = np.flatnonzero(parts.train.user_counts)[:5000]
    columns = raw_queries(recipe, dataset, schemas, parts.train, users, parts.valid)
    queries = embed_queries(towers[0], schemas, columns, len(users))
    cosine = mean_cosine(queries) if queries.ndim == 3 else 1.0
    return (*(found[name] for name in METRICS), cosine)


if __name__ == "__main__":
    sys.exit(main())
