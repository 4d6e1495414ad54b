"""Baseline methods to compare a model with; their settings are chosen on the validation part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.data.splits import Data, Parts, sample_users
from trainer.evaluation.baseline_methods import (
    Known,
    ease,
    ease_weights,
    ials,
    item_knn,
    popularity,
    recent_popularity,
    repeat_frequency,
)
from trainer.evaluation.metrics import HeldOut, Scorer, evaluate
from trainer.progress import SILENT, Progress
from trainer.recipe.recipe import BaselineKey, Recipe

_DENSE_ITEMS = 20_000
"""Largest catalogue for methods with an items x items matrix: 1.6 GB of float32."""

_UNITS = {
    "half_life": " of the greatest age of an event",
    "decay": " for each newer event of the user",
    "neighbours": " items",
}
_IN_MEMORY_EVENTS = 30_000_000
"""Largest number of events for methods that hold all of them in memory, in up to 100 bytes each."""

_FEW_ITEMS, _FEW_EVENTS = 3000, 1_000_000
"""Largest catalogue and number of events for which all methods are fitted within about a minute."""

_TUNING_USERS = 4000
_RIDGES = (50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
_DECAYS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97)


@dataclass(frozen=True)
class Baseline:
    """A baseline method, and the settings among which validation chooses.

    Attributes:
        fit: Function that fits the method on `Known` events with some settings and returns a scorer.
        grid: Settings to choose from, as keyword arguments of `fit`.
        is_dense: Whether the method computes an items x items matrix.
        counts_repeats: Whether the method only makes sense if known items are ranked too.
        streams: Whether the method only counts events, so that it never holds all of them in memory.
    """

    fit: Callable[..., Scorer]
    grid: Sequence[Mapping[str, Any]] = ({},)
    is_dense: bool = False
    counts_repeats: bool = False
    streams: bool = False


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(popularity, streams=True),
    "recent popularity": Baseline(recent_popularity, [{"half_life": share} for share in (0.003, 0.01, 0.03, 0.1, 0.3)]),
    "ItemKNN": Baseline(
        item_knn, [{"neighbours": n, "shrinkage": s} for n in (20, 100, 200, 500) for s in (0.0, 10.0, 100.0)]
    ),
    "EASE": Baseline(ease, [{"ridge": r, "decay": 1.0} for r in _RIDGES], is_dense=True),
    "EASE with recency": Baseline(
        ease, [{"ridge": r, "decay": d} for r in _RIDGES for d in (*_DECAYS, 1.0)], is_dense=True
    ),
    "iALS": Baseline(
        ials,
        [
            {"factors": 64, "alpha": a, "regularisation": r, "iterations": 15}
            for a in (0.3, 1.0, 3.0, 10.0, 40.0)
            for r in (0.1, 1.0, 10.0, 30.0)
        ],
    ),
    "repeat frequency": Baseline(repeat_frequency, counts_repeats=True),
}
"""All baseline methods by name."""

BASELINE_NAMES: Mapping[BaselineKey, str] = {
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "item_knn": "ItemKNN",
    "ease": "EASE",
    "ease_with_recency": "EASE with recency",
    "ials": "iALS",
}
"""Names of the methods that `Gates.baselines` can have."""


class FittedBaselines(NamedTuple):
    """The fitted methods.

    Attributes:
        scorers: Scorer of each method by name.
        notes: Sentences for the person who trains, about chosen settings and omitted methods.
        validation: NDCG@10 on `validation_users` of each method that has settings, by name.
    """

    scorers: dict[str, Scorer]
    notes: list[str]
    validation: dict[str, float]


def fit_wanted(
    recipe: Recipe, data: Data, repeats: bool, progress: Progress, *, wanted: bool | None
) -> dict[str, Scorer]:
    """Returns the scorers of the methods of the recipe's gates by name, and of all others if they are wanted.

    Popularity is not among them if it is the only one, as every evaluation has it.

    Args:
        recipe: Recipe with the gates.
        data: Data set and its split.
        repeats: Whether known items are ranked too.
        progress: Receives the progress and notes.
        wanted: Whether all methods are wanted. None: if they are fitted within about a minute.
    """
    judging = {BASELINE_NAMES[key] for key in recipe.gates.baselines} - {BASELINE_NAMES["popularity"]}
    if wanted is None:
        wanted = len(data.dataset.items.ids) <= _FEW_ITEMS and len(data.dataset.events) <= _FEW_EVENTS
        if not wanted:
            progress.note(
                "note: the baselines would take minutes here; `evaluate RUN --baselines` compares with ItemKNN, EASE, "
                "iALS and others."
            )
    if not wanted and not judging:
        return {}
    fitted = fit_all(data, repeats=repeats, only=None if wanted else judging, progress=progress)
    for note in fitted.notes:
        progress.note(f"note: {note}")
    return fitted.scorers


def fit_all(
    data: Data,
    *,
    repeats: bool = False,
    only: Collection[str] | None = None,
    progress: Progress = SILENT,
) -> FittedBaselines:
    """Fits the baseline methods on training and validation events, with the settings that are best on validation.

    Args:
        data: Data set and its split; the test part is not read.
        repeats: Whether known items are ranked too.
        only: Names of the methods to fit. Default: all.
        progress: Receives the name of the current method and its settings.
    """
    parts, notes = data.parts, list[str]()
    user_count, item_count = len(data.dataset.user_ids), len(data.dataset.items.ids)
    before = Known(parts.train, user_count, item_count)
    known = Known(parts.known, user_count, item_count)
    names: list[str] = []
    for name, baseline in BASELINES.items():
        if only is not None and name not in only:
            continue
        if not baseline.streams and len(parts.known) > _IN_MEMORY_EVENTS:
            notes.append(
                f"{name} is left out: it needs all events in memory, at most {_IN_MEMORY_EVENTS:,}, and there are "
                f"{len(parts.known):,}; evaluate it on a table of fewer users"
            )
            continue
        if baseline.is_dense and item_count > _DENSE_ITEMS:
            notes.append(
                f"{name} is left out: its matrix of {item_count:,} x {item_count:,} items takes too much memory"
            )
        elif repeats or not baseline.counts_repeats:
            names.append(name)
    scorers: dict[str, Scorer] = {}
    with progress.working("fitting baselines") as tell:
        chosen, validation = _choose(names, before, validation_users(parts, item_count, repeats=repeats), tell)
        for name in names:
            tell(name)
            scorers[name] = BASELINES[name].fit(known, **chosen[name])
            if chosen[name]:
                notes.append(f"{name}: {', '.join(_shown(chosen[name]))}, chosen on validation")
    ease_weights.cache_clear()
    return FittedBaselines(scorers, notes, validation)


def _choose(
    names: Sequence[str], before: Known, held_out: HeldOut, tell: Callable[[str], None]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, float]]:
    """Returns the settings with the best NDCG@10 on validation, and that NDCG@10, by the name of the method.

    Args:
        names: Names of the methods.
        before: Events before the validation part, to fit on.
        held_out: Users and events of the validation part.
        tell: Function to call with the name of each step.
    """
    figures: dict[Any, float] = {}
    chosen: dict[str, Mapping[str, Any]] = {}
    best: dict[str, float] = {}
    for name in sorted(names, key=lambda name: -len(BASELINES[name].grid)):  # EASE reuses results of EASE with recency
        fit, grid = BASELINES[name].fit, BASELINES[name].grid
        if len(grid) == 1:
            chosen[name] = grid[0]
            continue
        keys = [(fit, *settings.items()) for settings in grid]
        for number, (key, settings) in enumerate(zip(keys, grid, strict=True), start=1):
            if key not in figures:
                tell(f"{name}, setting {number} of {len(grid)}")
                figures[key] = evaluate(held_out, fit(before, **settings)).means["ndcg@10"]
        key, chosen[name] = max(zip(keys, grid, strict=True), key=lambda pair: figures[pair[0]])
        best[name] = figures[key]
    return chosen, best


def _shown(settings: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name} {value:g}{_UNITS.get(name, '')}" for name, value in settings.items())


def validation_users(parts: Parts, item_count: int, *, repeats: bool) -> HeldOut:
    """Returns a sample of the users of the validation part, on which the settings of the methods are chosen."""
    known, valid = sample_users(parts.train, parts.valid, _TUNING_USERS)
    return HeldOut.of(known.pairs, valid.pairs, item_count, repeats=repeats)
