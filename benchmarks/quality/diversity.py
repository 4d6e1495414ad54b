"""What diversity costs in relevance: lists of a trained model by the weight of diversity, and by group limits.

```console
$ python -m trainer train movielens_100k --run runs/movielens
$ python -m benchmarks.quality.diversity --run runs/movielens --attribute genres
```

For each user of the test part, the exact best candidates, without the items that the user knows, are chosen from as the
ANN service chooses (`ann_service.reranking.diversity`). Each row of the table is one setting:

- ``NDCG@10`` and ``HR@10`` of the held-out items, and the paired difference of NDCG@10 to the list without diversity,
  with its 95 % bootstrap interval;
- ``coverage@10``: share of the catalogue that is in at least one user's list;
- ``similarity``: mean cosine of the pairs of items of a list, by the model's own vectors (intra-list similarity;
  Ziegler et al. 2005, "Improving Recommendation Lists Through Topic Diversification");
- ``shared``: mean number of values of the attribute that a pair of items has in common, divided by the number that at
  least one of them has (Jaccard): what a person sees, whatever the vectors say;
- ``short lists``: lists with fewer than 10 items, because of group limits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ann_service.reranking.diversity import Groups, choose
from benchmarks.timing import print_table
from retrieval.bundle.catalogue.items import StringListColumn
from retrieval.index.scan import best
from retrieval.steps import run_to_end
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading

_K = 10
_USERS_AT_ONCE = 256
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
_GROUP_SIZES = (5, 3)


@dataclass(frozen=True)
class Setting:
    """How items are chosen from the candidates.

    Attributes:
        diversity: Weight of diversity, 0 to 1.
        max_group_size: Largest number of items with the same value of the attribute; 0: no limit.
    """

    diversity: float = 0.0
    max_group_size: int = 0


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.diversity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, help="folder of a run (default: train movielens_100k, without refit)")
    parser.add_argument("--attribute", default="genres", help="list attribute of the items (default: genres)")
    parser.add_argument("--candidates", type=int, default=100, help="candidates of a list (default: 100)")
    arguments = parser.parse_args()
    import_tensorflow()
    from trainer.evaluation.evaluate import TEST_USERS
    from trainer.evaluation.metrics import HeldOut
    from trainer.evaluation.task import Task
    from trainer.training.fit_and_refit import fit_and_choose
    from trainer.training.saved_run import Run

    if arguments.run is not None:
        run = Run.load(arguments.run)
        data = sources.read(run.model.recipe, run.data_folder)
    else:
        recipe = loading.load("movielens_100k")
        folder = sources.data_folder(recipe, recipe.name)
        data = sources.read(recipe, folder)
        with tempfile.TemporaryDirectory(prefix="two-tower-diversity-") as run_folder:
            run = fit_and_choose(recipe, folder, data, Path(run_folder), resume=False, progress=RichProgress())
    (dataset, parts), item_count = data, len(data.dataset.items.ids)
    held_out = HeldOut.of(parts.known.pairs, parts.test.pairs, item_count)
    task = Task(run.model, dataset, parts.known, parts.test)
    score, users = task.scorer(), held_out.users[:TEST_USERS]
    column = StringListColumn.of(dataset.item_column(arguments.attribute))

    def batches() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(users), _USERS_AT_ONCE):
            for number, scores in enumerate(score(users[start : start + _USERS_AT_ONCE]), start):
                scores[held_out.known[number]] = -np.inf
                yield number, scores

    settings = [Setting(weight) for weight in _WEIGHTS] + [Setting(0.0, size) for size in _GROUP_SIZES]
    lists: dict[Setting, list[np.ndarray]] = {setting: [] for setting in settings}
    values: dict[Setting, list[list[float]]] = {setting: [] for setting in settings}
    for number, scores in batches():
        rows, relevances = best(np.arange(item_count), scores, arguments.candidates)
        vectors = task.vectors[rows]
        for setting in settings:
            groups = [Groups(column, rows, setting.max_group_size)] if setting.max_group_size else []
            chosen = run_to_end(choose(relevances, vectors, _K, setting.diversity, groups)).positions
            lists[setting].append(rows[chosen])
            hits = np.isin(rows[chosen], held_out.relevant[number])
            ndcg = _ndcg(hits, len(held_out.relevant[number]))
            similarity, shared = _similarity(vectors[chosen]), _shared(column, rows[chosen])
            values[setting].append([ndcg, float(hits.any()), similarity, shared])
    sizes = f"{len(users):,} users, {item_count:,} items, {arguments.candidates} candidates, k = {_K}"
    title = f"{run.model.recipe.name}: {sizes}"
    _print(title, item_count, arguments.attribute, lists, {setting: np.array(of) for setting, of in values.items()})
    return 0


def _ndcg(hits: np.ndarray, relevant_count: int) -> float:
    """Returns NDCG@10 of a list: `hits` [n] bool, whether the items are relevant."""
    gains = 1.0 / np.log2(np.arange(2, _K + 2))
    return float(gains[: len(hits)][hits].sum() / gains[: min(_K, relevant_count)].sum())


def _similarity(vectors: np.ndarray) -> float:
    """Returns the mean cosine of all pairs of [n, dimension] unit vectors."""
    upper = np.triu_indices(len(vectors), 1)
    return float((vectors @ vectors.T)[upper].mean())


def _shared(column: StringListColumn, rows: np.ndarray) -> float:
    """Returns the mean Jaccard similarity of the values of all pairs of items; 0 for a pair without values."""
    sets = [set(column.at(row) or ()) for row in rows.tolist()]
    pairs = [(one, other) for position, one in enumerate(sets) for other in sets[position + 1 :]]
    return float(np.mean([len(one & other) / max(1, len(one | other)) for one, other in pairs]))


def _print(
    title: str,
    item_count: int,
    attribute: str,
    lists: dict[Setting, list[np.ndarray]],
    values: dict[Setting, np.ndarray],
) -> None:
    """Prints a row for each setting: the means of `values`, [users, metrics], and the coverage of the lists."""
    from trainer.evaluation import bootstrap

    plain = values[Setting()]
    rows: list[list[str]] = []
    for setting, measured in values.items():
        mean, low, high = bootstrap.paired(measured[:, :1], plain[:, :1])[:, 0].tolist()
        ndcg, hits, similarity, shared = measured.mean(axis=0).tolist()
        coverage = len(np.unique(np.concatenate(lists[setting]))) / item_count
        name = f"at most {setting.max_group_size} of a value" if setting.max_group_size else f"{setting.diversity:g}"
        difference = "" if setting == Setting() else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        short = sum(len(each) < _K for each in lists[setting])
        cells = [f"{each:.4f}" for each in (ndcg, hits)] + [difference]
        rows.append([name, *cells, *(f"{each:.3f}" for each in (coverage, similarity, shared)), f"{short:,}"])
    head = ["diversity", "NDCG@10", "HR@10", "difference", "coverage@10", "similarity", f"shared {attribute}"]
    print_table(title, [*head, "short lists"], rows)


if __name__ == "__main__":
    sys.exit(main())
