"""Search space around a recipe: the recipe keys that a search varies, each with the values to try."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import Trial

from trainer.errors import RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID, Recipe

Raw = dict[str, Any]
"""Recipe as plain values, as `Recipe.to_json` returns it."""

_SAMPLED = ("sampled_softmax", "mixed_softmax", "gbce", "bce")
_RANKED_WHOLE = 20_000
"""Largest number of items for which losses that rank the whole catalogue are tried."""
_SMALL_LOSSES = ("full_softmax", "sampled_softmax", "gbce", "in_batch_softmax")
_LARGE_LOSSES = ("in_batch_softmax", "sampled_softmax", "mixed_softmax", "gbce")
_ENCODERS = ("mean", "positions", "rank_decay", "gru", "transformer")
_LONGEST = (10, 20, 50, 100, 200)
_NEGATIVES = (256, 1024, 4096)
_WIDTHS = ([], [64], [128], [256])


@dataclass(frozen=True)
class Hyperparameter:
    """A recipe key that a search varies.

    Attributes:
        name: Name of the key with its sections, such as ``training.learning_rate``; features are named, as in
            ``query_tower.history.dropout``.
        path: Path of the key in `Raw`.
        own: Value of the key in the original recipe.
        distribution: Optuna distribution of the values to try, in the encoding of `encode`.
        applies: Function that tells whether the key has an effect in a recipe, given the keys chosen before it.
    """

    name: str
    path: tuple[str | int, ...]
    own: Any
    distribution: FloatDistribution | CategoricalDistribution
    applies: Callable[[Raw], bool] = lambda _: True

    def encode(self) -> Any:
        """Returns the value of the original recipe in the form that Optuna stores: a list is its JSON."""
        if isinstance(self.distribution, FloatDistribution):
            return max(self.own, self.distribution.low)  # 0 has no logarithm: the smallest value takes its place
        return json.dumps(self.own) if isinstance(self.own, list) else self.own

    def decode(self, value: Any) -> Any:
        """Returns the recipe value for a value in the encoding of `encode`.

        Floats are rounded, except the value of the original recipe: to three significant digits on a logarithmic scale,
        else to three decimals.
        """
        if value == self.encode():
            return self.own
        if isinstance(self.distribution, FloatDistribution):
            return float(f"{value:.3g}") if self.distribution.log else round(value, 3)
        return json.loads(value) if isinstance(self.own, list) else value

    def suggest(self, trial: Trial) -> Any:
        """Returns the value that Optuna suggests for a trial, as a recipe value."""
        d = self.distribution
        if isinstance(d, FloatDistribution):
            return self.decode(trial.suggest_float(self.name, d.low, d.high, log=d.log))
        return self.decode(trial.suggest_categorical(self.name, d.choices))


@dataclass(frozen=True)
class SearchSpace:
    """The set of recipes that a search can try: an original recipe, and the keys to vary in it.

    Attributes:
        recipe: Original recipe, which is the first trial.
        parameters: Recipe keys to vary; a key comes before the keys that depend on it.
    """

    recipe: Recipe
    parameters: tuple[Hyperparameter, ...]

    @staticmethod
    def of(
        recipe: Recipe, *, item_count: int, event_count: int, longest: int, fixed: Collection[str] = ()
    ) -> SearchSpace:
        """Returns the search space around a recipe.

        Args:
            recipe: Original recipe. The space contains its values, and among feature keys only those of its features.
            item_count: Number of items of the catalogue, which decides on the losses to try.
            event_count: Number of training events, which limits the batch sizes to try.
            longest: Largest number of training events of a user, which limits the history lengths to try.
            fixed: Names of keys that keep their value, in full or the end of the name: ``dropout`` fixes every dropout.

        Raises:
            RecipeError: A name in `fixed` matches no key of the space, or no key is left to vary.
        """
        every = [*_training(recipe, item_count, event_count), *_towers(recipe, longest)]
        for name in fixed:
            if not any(_is_named(parameter, name) for parameter in every):
                names = ", ".join(parameter.name for parameter in every)
                raise RecipeError(f"--fix {name}: not a key that is searched over; those are {names}")
        free = [p for p in every if not any(_is_named(p, name) for name in fixed) and not _is_single(p)]
        if not free:
            raise RecipeError("every key is fixed, so there is nothing to search over; leave out a --fix")
        return SearchSpace(recipe, tuple(free))

    def describe(self) -> Raw:
        """Returns the distribution of each key as plain values, by name; equal spaces have equal descriptions."""
        return {p.name: json.loads(distribution_to_json(p.distribution)) for p in self.parameters}

    def own_values(self) -> Raw:
        """Returns the values of the original recipe by key name, in the encoding of Optuna, for the first trial."""
        raw = self.recipe.to_json()
        return {p.name: p.encode() for p in self.parameters if p.applies(raw)}

    def choose(self, trial: Trial) -> Recipe:
        """Returns the recipe that Optuna suggests for a trial."""
        own = self.recipe.to_json()
        raw = copy.deepcopy(own)
        for parameter in self.parameters:
            if parameter.applies(raw):
                _value_at(raw, parameter.path[:-1])[parameter.path[-1]] = parameter.suggest(trial)
        training = raw["training"]
        if training["loss"] != own["training"]["loss"]:  # reset the keys that the new loss does not accept
            if training["loss"] != "sampled_softmax":
                training["hard_negatives"] = 0
                training["bce_weight"] = 0.0
            if training["loss"] != "in_batch_softmax":
                training["queue"], training["log_q"] = 0, "counts"
            if training["loss"] == "gbce":
                training["sampling"] = "uniform"
        return loading.parse(raw, f"trial {trial.number}")

    def settings(self, raw: Mapping[str, Any]) -> Raw:
        """Returns the values of the varied keys in a recipe of the space, by name, without keys that have no effect."""
        return {p.name: _value_at(raw, p.path) for p in self.parameters if p.applies(dict(raw))}


def _training(recipe: Recipe, item_count: int, event_count: int) -> Iterator[Hyperparameter]:
    spec = recipe.training

    def key(name: str) -> tuple[str, tuple[str | int, ...], Any]:
        return f"training.{name}", ("training", name), getattr(spec, name)

    yield _choice(*key("loss"), _SMALL_LOSSES if item_count <= _RANKED_WHOLE else _LARGE_LOSSES)
    yield _choice(
        *key("negatives"),
        [n for n in _NEGATIVES if n < item_count],
        applies=lambda raw: raw["training"]["loss"] in _SAMPLED,
    )
    heads = [f.heads for f in recipe.query_tower.features if f.kind == "history"]
    yield _choice(*key("dimension"), [n for n in (32, 64, 128) if all(n % count == 0 for count in heads)])
    # An epoch has at least 20 steps, so larger batches would all be equal.
    largest = max(32, event_count // 20)
    sizes = [int(spec.batch_size * factor) for factor in (0.25, 0.5, 1, 2, 4)]
    yield _choice(*key("batch_size"), [n for n in sizes if 32 <= n <= largest])
    yield _number(*key("learning_rate"), 3e-4, 3e-2, log=True)
    yield _number(*key("weight_decay"), 1e-6, 1e-1, log=True)
    yield _number(*key("temperature"), 0.02, 0.5, log=True)
    if spec.prior_weight:  # 0 stays 0: validation metrics do not show its effect on coverage
        yield _number(*key("prior_weight"), 0.0, 0.4)


def _towers(recipe: Recipe, longest: int) -> Iterator[Hyperparameter]:
    has_item_id = any(feature.name == ITEM_ID for feature in recipe.item_tower.features)
    for side, tower in (("query_tower", recipe.query_tower), ("item_tower", recipe.item_tower)):
        yield _choice(f"{side}.hidden_units", (side, "hidden_units"), list(tower.hidden_units), _WIDTHS)
        yield _number(
            f"{side}.dropout", (side, "dropout"), tower.dropout, 0.0, 0.6, applies=lambda raw, s=side: _is_deep(raw, s)
        )
        for position, feature in enumerate(tower.features):
            name, path = f"{side}.{feature.name}", (side, "features", position)
            if feature.kind == "history":
                yield _choice(f"{name}.encoder", (*path, "encoder"), feature.encoder, _ENCODERS)
                sources = ("tied", "own", "tower") if has_item_id else ("own", "tower")
                yield _choice(f"{name}.items", (*path, "items"), feature.items, sources)
                yield _choice(f"{name}.max_values", (*path, "max_values"), feature.max_values, _lengths(longest))
                yield _number(f"{name}.dropout", (*path, "dropout"), feature.dropout, 0.0, 0.5)
                yield _number(f"{name}.encoder_dropout", (*path, "encoder_dropout"), feature.encoder_dropout, 0.0, 0.5)
            elif side == "item_tower" and feature.name == ITEM_ID:
                yield _number(f"{name}.dropout", (*path, "dropout"), feature.dropout, 0.0, 0.3)


def _lengths(longest: int) -> list[int]:
    """Returns the history lengths to try, ascending, up to the first one that is at least `longest`."""
    return [n for n, before in zip(_LONGEST, (0, *_LONGEST), strict=False) if before < longest]


def _number(
    name: str,
    path: tuple[str | int, ...],
    own: float,
    low: float,
    high: float,
    *,
    log: bool = False,
    applies: Callable[[Raw], bool] = lambda _: True,
) -> Hyperparameter:
    """Returns a key with float values from `low` to `high`; the range is extended to include the recipe's own value."""
    lowest = low if log and own <= 0.0 else min(low, own)
    return Hyperparameter(name, path, own, FloatDistribution(lowest, max(high, own), log=log), applies)


def _choice(
    name: str,
    path: tuple[str | int, ...],
    own: Any,
    options: Sequence[Any],
    *,
    applies: Callable[[Raw], bool] = lambda _: True,
) -> Hyperparameter:
    """Returns a key whose values are `options` and the recipe's own value."""
    every = sorted(options) if isinstance(own, int) else list(options)
    every = every if own in every else [*every, own]
    texts = [json.dumps(option) if isinstance(option, list) else option for option in every]
    return Hyperparameter(name, path, own, CategoricalDistribution(texts), applies)


def _is_single(parameter: Hyperparameter) -> bool:
    return parameter.distribution.single()


def _is_named(parameter: Hyperparameter, name: str) -> bool:
    return parameter.name == name or parameter.name.endswith(f".{name}")


def _is_deep(raw: Raw, side: str) -> bool:
    return bool(raw[side]["hidden_units"])


def _value_at(raw: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        raw = raw[key]
    return raw
