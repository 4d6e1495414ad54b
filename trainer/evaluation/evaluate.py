"""The model beside what anyone could do without one, on held-out events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.data.splits import Data, sample_users
from trainer.evaluation import bootstrap
from trainer.evaluation.metrics import HeldOut, Scorer, Scores, evaluate
from trainer.evaluation.slices import slices_of
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.model.trained_model import TrainedModel
from trainer.recipe.feature_inputs import HistoryInput, TextInput
from trainer.recipe.recipe import Recipe

MODEL, POPULARITY = "two-tower", "popularity"
"""Names of the methods."""

VALIDATION_USERS = 5000
"""Users that an epoch is judged by, at most: enough for a standard error of a few percent of the figure."""

TEST_USERS = 50_000
"""Users that a test is judged by, at most: the standard error is under half a percent of most figures."""

Metrics = Mapping[str, float]
Figures = Mapping[str, Metrics]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the test part.

    Attributes:
        metrics: by method, then by metric; the model is the first.
        user_count: users evaluated.
        cold_user_count: users of the test without any known item, left out.
        cold_item_share: share of the relevant items that no training event has; they stay in.
        repeat_share: share of the test events whose user already had the item.
        repeats: whether those count; if so, nothing is left out of the ranking.
        fitted_on: what the towers saw: ``train``, or ``train + valid``.
        intervals: 95 % of the bootstrap over users, by method and metric: low and high.
        differences: model minus method on the same users, by method and metric: difference, low, high.
        slices: the model by slice, then group: its metrics, and ``users``.
        inputs: the model by what the caller sends.
        test_user_count: users of the test part. Of more than `TEST_USERS`, so many are drawn, and all counts and
            metrics are of these.
        repeat_user_count: users whose test events all repeat items that they had, left out where repeats do not count.
    """

    metrics: Figures
    user_count: int
    cold_user_count: int
    cold_item_share: float
    repeat_share: float
    repeats: bool = False
    fitted_on: str = "train"
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    slices: Mapping[str, Figures] = field(default_factory=dict)
    inputs: Figures = field(default_factory=dict)
    test_user_count: int = 0
    repeat_user_count: int = 0


@dataclass(frozen=True)
class Task:
    """What is evaluated: a model, on held-out events of known users.

    Attributes:
        model: Model to evaluate.
        dataset: Users and items.
        known: Events that the histories are made of.
        asked: Held-out events.
    """

    model: TrainedModel
    dataset: Dataset
    known: Events
    asked: Events

    @cached_property
    def vectors(self) -> np.ndarray:
        """What the item tower makes of the catalogue: [item_count, dim] float32."""
        return embed_items(self.model.towers[1], self.model.schemas, self.dataset)

    def scorer(self, keep: Callable[[str], bool] = lambda _: True) -> Scorer:
        """Returns what scores users by the dot product of the two towers.

        Args:
            keep: whether a feature, by its name, is sent at all.
        """
        recipe, schemas, query_tower = self.model.recipe, self.model.schemas, self.model.towers[0]

        def score(users: np.ndarray) -> np.ndarray:
            raw = raw_queries(recipe, self.dataset, schemas, self.known, users, self.asked)
            sent = {name: column for name, column in raw.items() if keep(name)}
            return embed_queries(query_tower, schemas, sent, len(users)) @ self.vectors.T  # [n, item_count]

        return score


def popularity_scorer(known: Events, item_count: int) -> Scorer:
    """Returns what scores all users alike: by how many events an item has in `known`."""
    counts = known.item_counts(item_count).astype(np.float32)
    return lambda users: np.broadcast_to(counts, (len(users), item_count))


def reads_requests(recipe: Recipe) -> bool:
    """Whether the query tower reads a text: then a user of whom nothing is known can still be answered."""
    return any(isinstance(feature, TextInput) for feature in recipe.query_tower.features)


def evaluate_validation(model: TrainedModel, data: Data) -> dict[str, float]:
    """Returns the model's metrics on the validation part: what may guide choices.

    Of more than `VALIDATION_USERS` users, the same ones are drawn each time.
    """
    recipe, (dataset, parts) = model.recipe, data
    known, asked = sample_users(parts.train, parts.valid, VALIDATION_USERS)
    held_out = HeldOut.of(
        known.pairs,
        asked.pairs,
        len(dataset.items.ids),
        repeats=recipe.split.repeats,
        new_users=reads_requests(recipe),
    )
    task = Task(model, dataset, parts.train, parts.valid)
    return dict(evaluate(held_out, task.scorer()).means)


def evaluate_test(
    model: TrainedModel,
    data: Data,
    *,
    refitted: bool = False,
    repeats: bool | None = None,
    others: Mapping[str, Scorer] | None = None,
    columns: tuple[str, ...] = (),
) -> Evaluation:
    """Returns model and baselines on the test part.

    Args:
        model: Model to evaluate.
        data: Data set and its split. Training and validation items are known, and excluded from the ranking.
        refitted: whether the towers saw validation too.
        repeats: whether known items are ranked and count. Default: as the recipe says.
        others: more methods by name, beside the model and popularity.
        columns: of the users table, to slice by.
    """
    recipe, (dataset, parts) = model.recipe, data
    repeats = recipe.split.repeats if repeats is None else repeats
    known, item_count = parts.known, len(dataset.items.ids)
    counts = known.item_counts(item_count)
    theirs, asked = sample_users(known, parts.test, TEST_USERS)
    known_pairs, test_pairs = theirs.pairs, asked.pairs
    held_out = HeldOut.of(
        known_pairs, test_pairs, item_count, repeats=repeats, item_counts=counts, new_users=reads_requests(recipe)
    )
    task = Task(model, dataset, known, asked)
    rivals = {POPULARITY: popularity_scorer(known, item_count), **(others or {})}
    methods = {MODEL: task.scorer(), **rivals}
    scores = {name: evaluate(held_out, method) for name, method in methods.items()}
    asked_count = int(np.count_nonzero(asked.user_counts))
    cold_count = 0 if reads_requests(recipe) else len(np.setdiff1d(asked.users, theirs.users))
    trained = parts.train.item_counts(item_count) > 0
    had = np.isin(_keys(asked, item_count), known_pairs.astype(np.int64) @ [item_count, 1])
    slices = {
        name: {group: {**found.means, "users": float(len(found.users))} for group, found in groups.items()}
        for name, groups in slices_of(task, held_out, scores[MODEL], trained, columns, rivals).items()
    }
    return Evaluation(
        metrics={name: dict(found.means) for name, found in scores.items()},
        user_count=len(held_out.users),
        cold_user_count=cold_count,
        cold_item_share=float((~trained[np.concatenate(held_out.relevant)]).mean()),
        repeat_share=float(had.mean()),
        repeats=repeats,
        fitted_on="train + valid" if refitted else "train",
        intervals={name: _intervals(found) for name, found in scores.items()},
        differences={name: _differences(scores[MODEL], found) for name, found in scores.items() if name != MODEL},
        slices=slices,
        inputs=_by_inputs(task, held_out, scores[MODEL]),
        repeat_user_count=asked_count - len(held_out.users) - cold_count,
        test_user_count=int(np.count_nonzero(parts.test.user_counts)),
    )


def _matrix(scores: Scores, names: Sequence[str]) -> np.ndarray:
    return np.stack([scores.per_user[name] for name in names], axis=1)  # [n, m]


def _intervals(scores: Scores) -> dict[str, tuple[float, float]]:
    names = list(scores.per_user)
    low, high = bootstrap.bootstrap(_matrix(scores, names)).tolist()
    return dict(zip(names, zip(low, high, strict=True), strict=True))


def _differences(model: Scores, other: Scores) -> dict[str, tuple[float, float, float]]:
    names = list(model.per_user)
    means, low, high = bootstrap.paired(_matrix(model, names), _matrix(other, names)).tolist()
    return dict(zip(names, zip(means, low, high, strict=True), strict=True))


def _by_inputs(task: Task, held_out: HeldOut, complete: Scores) -> Figures:
    """Returns the model's metrics by what the caller sends of the features."""
    features = task.model.recipe.query_tower.features
    every = {f.name for f in features}
    sent: dict[str, set[str]] = {}
    for what, kind in (("text", TextInput), ("history", HistoryInput)):
        of_kind = {f.name for f in features if isinstance(f, kind)}
        if of_kind and of_kind != every:
            sent |= {f"{what} only": of_kind, f"all but the {what}": every - of_kind}
    if any(f.event_features or f.reads_times for f in features if isinstance(f, HistoryInput)):
        sent["all but the values of events"] = every
    sent["nothing"] = set()
    partly = {
        title: dict(evaluate(held_out, task.scorer(lambda name, kept=names: name in kept)).means)
        for title, names in sent.items()
    }
    return {"all features": dict(complete.means), **partly}


def _keys(events: Events, item_count: int) -> np.ndarray:
    return events.users.astype(np.int64) * item_count + events.items
