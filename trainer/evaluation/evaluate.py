"""Evaluates a model on held-out events, and compares it with popularity and other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.data.events import Events
from trainer.data.splits import Data, sample_users
from trainer.evaluation import bootstrap
from trainer.evaluation.metrics import HeldOut, Scorer, Scores, evaluate
from trainer.evaluation.slices import slices_of
from trainer.evaluation.task import Task, reads_requests
from trainer.model.trained_model import TrainedModel
from trainer.recipe.feature_inputs import HistoryInput, TextInput

MODEL, POPULARITY = "two-tower", "popularity"
"""Names of the model and of the popularity baseline in an `Evaluation`."""

VALIDATION_USERS = 5000
"""Largest number of users to evaluate after an epoch; the standard error is a few percent of a metric."""

TEST_USERS = 50_000
"""Largest number of users to evaluate in a test; the standard error is under half a percent of most metrics."""

Metrics = Mapping[str, float]
Figures = Mapping[str, Metrics]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation on the test part.

    Attributes:
        metrics: Mean over users by method, then metric; the model is the first method.
        user_count: Number of evaluated users.
        cold_user_count: Number of test users without known items, who are not evaluated.
        cold_item_share: Share of the relevant items without an event in `fitted_on`; they are evaluated too.
        repeat_share: Share of the test events with an item that the user had interacted with before.
        repeats: Whether repeat events count as relevant; if so, known items are ranked too.
        fitted_on: Parts that the towers were trained on: ``train``, or ``train + valid``.
        intervals: 95 % bootstrap intervals over users, (lower bound, upper bound), by method, then metric.
        differences: Mean differences of the model to each other method on the same users, with 95 % intervals:
            (model minus method, lower bound, upper bound), by method, then metric.
        slices: Metrics of the model by slice, then group, then metric; ``users`` is the number of users of the group.
        inputs: Metrics of the model if requests have only some of the features, by the features, then metric.
        test_user_count: Number of users of the test part. If there are more than `TEST_USERS`, a sample of that size is
            evaluated, and the other counts and the metrics are those of the sample.
        repeat_user_count: Number of users whose test events are all repeats of known items. These users are evaluated
            only if `repeats` is true.
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


def popularity_scorer(known: Events, item_count: int) -> Scorer:
    """Returns a scorer whose score of an item is its number of events in `known`, for all users alike."""
    counts = known.item_counts(item_count).astype(np.float32)
    return lambda users: np.broadcast_to(counts, (len(users), item_count))


def evaluate_validation(model: TrainedModel, data: Data) -> dict[str, float]:
    """Returns the mean metrics of a model on the validation part, by name, for choices such as the best epoch.

    If there are more than `VALIDATION_USERS` users, a sample of that size is evaluated, the same one in each call.
    """
    recipe, (dataset, parts) = model.recipe, data
    known, valid = sample_users(parts.train, parts.valid, VALIDATION_USERS)
    held_out = HeldOut.of(
        known.pairs,
        valid.pairs,
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
    """Evaluates a model, the popularity baseline and other methods on the test part.

    Args:
        model: Model to evaluate.
        data: Data set and its split. The items of a user's training and validation events are the known items, which
            are excluded from the ranking unless `repeats` is true.
        refitted: Whether the towers were trained on the validation part too.
        repeats: Whether known items are ranked and count as relevant. Default: `split.repeats` of the recipe.
        others: Scorers of further methods by name. Default: popularity alone.
        columns: Columns of the users table that divide the users into groups, with metrics of each.
    """
    recipe, (dataset, parts) = model.recipe, data
    repeats = recipe.split.repeats if repeats is None else repeats
    known, item_count = parts.known, len(dataset.items.ids)
    counts = known.item_counts(item_count)
    known_sample, test_sample = sample_users(known, parts.test, TEST_USERS)
    known_pairs, test_pairs = known_sample.pairs, test_sample.pairs
    held_out = HeldOut.of(
        known_pairs, test_pairs, item_count, repeats=repeats, item_counts=counts, new_users=reads_requests(recipe)
    )
    task = Task(model, dataset, known, test_sample)
    rivals = {POPULARITY: popularity_scorer(known, item_count), **(others or {})}
    methods = {MODEL: task.scorer(), **rivals}
    scores = {name: evaluate(held_out, method) for name, method in methods.items()}
    sample_count = int(np.count_nonzero(test_sample.user_counts))
    cold_count = 0 if reads_requests(recipe) else len(np.setdiff1d(test_sample.users, known_sample.users))
    trained = (known if refitted else parts.train).item_counts(item_count) > 0
    is_repeat = np.isin(_keys(test_sample, item_count), known_pairs.astype(np.int64) @ [item_count, 1])
    slices = {
        name: {group: {**part.means, "users": float(len(part.users))} for group, part in groups.items()}
        for name, groups in slices_of(task, held_out, scores[MODEL], trained, columns, rivals).items()
    }
    return Evaluation(
        metrics={name: dict(score.means) for name, score in scores.items()},
        user_count=len(held_out.users),
        cold_user_count=cold_count,
        cold_item_share=float((~trained[np.concatenate(held_out.relevant)]).mean()),
        repeat_share=float(is_repeat.mean()),
        repeats=repeats,
        fitted_on="train + valid" if refitted else "train",
        intervals={name: _intervals(score) for name, score in scores.items()},
        differences={name: _differences(scores[MODEL], score) for name, score in scores.items() if name != MODEL},
        slices=slices,
        inputs=_by_inputs(task, held_out, scores[MODEL]),
        repeat_user_count=sample_count - len(held_out.users) - cold_count,
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
    """Returns the metrics of the model if requests have only some of the features, by the features, then metric.

    Args:
        task: Model and held-out events.
        held_out: Users to evaluate.
        complete: Metrics with all features.
    """
    features = task.model.recipe.query_tower.features
    every = {f.name for f in features}
    sent: dict[str, set[str]] = {}
    for kind, input_type in (("text", TextInput), ("history", HistoryInput)):
        names = {f.name for f in features if isinstance(f, input_type)}
        if names and names != every:
            sent |= {f"{kind} only": names, f"all but the {kind}": every - names}
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
