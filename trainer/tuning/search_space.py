"""The search space around a recipe: the keys that are searched over, each with the values to try."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import Trial

from trainer.drafting.draft import SMALL_CATALOGUE
from trainer.errors import RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import ITEM_ID, Recipe

Raw = dict[str, Any]
"""A recipe in the form of `Recipe.to_json`."""

_SAMPLED = ("sampled_softmax", "mixed_softmax", "gbce", "bce")
_SMALL_LOSSES = ("full_softmax", "sampled_softmax", "gbce", "in_batch_softmax")
_LARGE_LOSSES = ("in_batch_softmax", "sampled_softmax", "mixed_softmax", "gbce")
_ENCODERS = ("mean", "positions", "rank_decay", "gru", "transformer")
_LONGEST = (10, 20, 50, 100, 200)
_NEGATIVES = (256, 1024, 4096)
_WIDTHS = ([], [64], [128], [256])


@dataclass(frozen=True)
class Hyperparameter:
    """One key of a recipe that is searched over.

    Attributes:
        name: Name of the key with its sections, such as ``training.learning_rate``; features are named, as in
            ``query_tower.history.dropout``.
        path: Path of the key in `Raw`.
        own: Value in the original recipe.
        distribution: Distribution of the encoded values, see `encode`.
        applies: Whether the key matters in a recipe, given the keys that were chosen before it.
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
        """Returns the recipe's value of an encoded one. Floats are rounded, except the value of the original recipe.

        A logarithmic float gets three significant digits, another float three decimals.
        """
        if value == self.encode():
            return self.own
        if isinstance(self.distribution, FloatDistribution):
            return float(f"{value:.3g}") if self.distribution.log else round(value, 3)
        return json.loads(value) if isinstance(self.own, list) else value

    def suggest(self, trial: Trial) -> Any:
        """Returns the value that Optuna suggests for a trial, decoded."""
        d = self.distribution
        if isinstance(d, FloatDistribution):
            return self.decode(trial.suggest_float(self.name, d.low, d.high, log=d.log))
        return self.decode(trial.suggest_categorical(self.name, d.choices))


@dataclass(frozen=True)
class SearchSpace:
    """The recipes of a search.

    Attributes:
        recipe: Original recipe, from which the search starts.
        parameters: Keys that are searched over; keys that others depend on come first.
    """

    recipe: Recipe
    parameters: tuple[Hyperparameter, ...]

    @staticmethod
    def of(
        recipe: Recipe, *, item_count: int, event_count: int, longest: int, fixed: Collection[str] = ()
    ) -> SearchSpace:
        """Returns the search space around a recipe.

        Args:
            recipe: original recipe. The space contains its values, and keys of its features only.
            item_count: number of items of the catalogue; decides which losses are tried.
            event_count: number of training events.
            longest: largest number of training events of a user.
            fixed: keys that are not searched over, each by its name or the end of it: ``dropout`` fixes every dropout.

        Raises:
            RecipeError: a fixed key is not one that is searched over, or no key is left.
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
        """Returns the distribution of each key by name; spaces with equal descriptions are equal."""
        return {p.name: json.loads(distribution_to_json(p.distribution)) for p in self.parameters}

    def own_values(self) -> Raw:
        """Returns the encoded values of the original recipe by name, for the first trial."""
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
        """Returns the values of a recipe of the space by name, without keys that do not matter in it."""
        return {p.name: _value_at(raw, p.path) for p in self.parameters if p.applies(dict(raw))}


def _training(recipe: Recipe, item_count: int, event_count: int) -> Iterator[Hyperparameter]:
    spec = recipe.training

    def key(name: str) -> tuple[str, tuple[str | int, ...], Any]:
        return f"training.{name}", ("training", name), getattr(spec, name)

    yield _choice(*key("loss"), _SMALL_LOSSES if item_count <= SMALL_CATALOGUE else _LARGE_LOSSES)
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
    """Returns the lengths of a history to try, up to the first that holds the longest history."""
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
    """Returns a float parameter between `low` and `high`; the range is extended to the recipe's own value."""
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
    """Returns a parameter that is one of `options` or the recipe's own value."""
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
