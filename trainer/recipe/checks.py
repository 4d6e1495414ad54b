"""What of a recipe does not go together: features without attributes, keys that a loss or a format has no use for."""

from __future__ import annotations

import dataclasses

from retrieval.bundle.features.event_kinds import REQUEST_TIME, TIME
from trainer.errors import RecipeError
from trainer.recipe.event_values import CategoricalValue, NumericValue
from trainer.recipe.recipe import (
    CLOCK,
    ID,
    ITEM_ID,
    USER_ID,
    CategoricalInput,
    HistoryInput,
    Recipe,
    lexical_attributes,
    query_attributes,
)
from trainer.recipe.tables import Interactions
from trainer.recipe.text import TextInput
from trainer.recipe.training import Training


def check(recipe: Recipe, source: str) -> None:
    """Raises RecipeError where keys do not go together.

    Args:
        recipe: each key of which is in its range.
        source: its name, for messages.
    """
    sides = (
        ("query_tower", recipe.query_tower, query_attributes(recipe), USER_ID),
        ("item_tower", recipe.item_tower, {} if recipe.items is None else recipe.items.attributes, ITEM_ID),
    )
    for side, tower, attributes, id_name in sides:
        names = [feature.name for feature in tower.features]
        if len(set(names)) != len(names):
            raise RecipeError(f"{source}: {side}: feature names {names} are not distinct")
        for feature in tower.features:
            where = f"{source}: {side}: feature {feature.name}"
            if isinstance(feature, HistoryInput):
                if side == "item_tower":
                    raise RecipeError(f"{where}: a history belongs to the query tower")
                _check_values(feature, recipe.interactions, where)
                continue
            if feature.name == id_name:
                if not isinstance(feature, CategoricalInput):
                    raise RecipeError(f"{where}: an id is categorical, not {feature.kind}")
                continue
            if feature.name not in attributes:
                if feature.name in CLOCK and side == "query_tower":
                    raise RecipeError(f"{where}: needs interactions.time, or an attribute of that name")
                tables = "[users.attributes] or [interactions.attributes]"
                raise RecipeError(
                    f"{where}: no such attribute; add it under "
                    f"{tables if side == 'query_tower' else '[items.attributes]'} (there are {sorted(attributes)})"
                )
            types = {
                "categorical": ("string", "int"),
                "multi_categorical": ("string_list",),
                "numeric": ("int", "float"),
                "text": ("string",),
            }
            if attributes[feature.name].type not in types[feature.kind]:
                raise RecipeError(
                    f"{where}: kind {feature.kind} reads type {' or '.join(types[feature.kind])}, "
                    f"the attribute is of type {attributes[feature.name].type}"
                )
    item_types = {} if recipe.items is None else {name: a.type for name, a in recipe.items.attributes.items()}
    for name in recipe.search.attributes:
        if item_types.get(name) != "string":
            raise RecipeError(
                f"{source}: search.attributes: {name} is no attribute of the items of type string (there are "
                f"{sorted(n for n, kind in item_types.items() if kind == 'string')})"
            )
    if recipe.search.serve and not lexical_attributes(recipe):
        raise RecipeError(
            f"{source}: search.serve needs a text of the items; name attributes under [search], or give the item tower "
            "a feature of kind text"
        )
    _check_format(recipe.interactions, source)
    if recipe.interactions.min_rating is not None and recipe.interactions.rating is None:
        raise RecipeError(f"{source}: interactions.min_rating needs interactions.rating, the column it applies to")
    _check_training(recipe.training, source)
    if recipe.training.prior_weight:
        _check_prior(recipe, source)
    if recipe.training.event_order == "shuffled" and recipe.training.history_lag is not None:
        raise RecipeError(
            f"{source}: training.history_lag {recipe.training.history_lag} makes no sense where training.event_order "
            "is shuffled, as no time passes between events; remove it, or use event_order time"
        )
    histories = [feature for feature in recipe.query_tower.features if isinstance(feature, HistoryInput)]
    if any(f.reads_times for f in histories) and any(f.name == REQUEST_TIME for f in recipe.query_tower.features):
        raise RecipeError(
            f"{source}: query_tower: feature {REQUEST_TIME}: the name is taken by the time that ages are counted from; "
            "choose another name"
        )
    if recipe.training.event_order == "shuffled" and any(f.reads_times for f in histories):
        raise RecipeError(
            f"{source}: query_tower: ages and gaps make no sense where training.event_order is "
            "shuffled, as no time passes between events; remove them, or use event_order time"
        )
    if len(histories) > 1 and any(feature.encoder == "transformer" for feature in histories):
        raise RecipeError(
            f"{source}: query_tower: a history with encoder transformer has to be the only one, as it counts places "
            f"from the oldest item of a training sequence; there are {[feature.name for feature in histories]}"
        )
    if recipe.training.members > 1:
        _check_members(recipe, source)
    if recipe.split.kind == "column" and recipe.split.column is None:
        raise RecipeError(
            f"{source}: split.kind column needs split.column, the column of the interactions that says train, valid or "
            "test"
        )
    if recipe.split.kind != "column" and recipe.split.column is not None:
        raise RecipeError(
            f"{source}: split.column {recipe.split.column!r} makes no sense where split.kind is {recipe.split.kind}; "
            "remove it, or use split.kind column"
        )
    if recipe.split.kind == "column" and recipe.interactions.format != "table":
        raise RecipeError(f"{source}: split.kind column needs interactions of format table")
    if recipe.split.kind == "global_temporal" and recipe.interactions.time is None:
        raise RecipeError(f"{source}: split.kind global_temporal needs interactions.time, the column of the time")
    users = {} if recipe.users is None else recipe.users.attributes
    items = {} if recipe.items is None else recipe.items.attributes
    events = recipe.interactions.attributes
    tables = (("users", users, USER_ID), ("items", items, ITEM_ID), ("interactions", events, USER_ID))
    for table, names, id_name in tables:
        for reserved in {ID, id_name} & set(names):
            raise RecipeError(f"{source}: {table}.attributes: {reserved} is the id itself; choose another name")
    for name in events:
        if name in users:
            raise RecipeError(
                f"{source}: interactions.attributes: {name} is one of [users.attributes] too; choose another name"
            )


def _check_members(recipe: Recipe, source: str) -> None:
    """Raises where several pairs of towers could not be made one."""
    where = f"{source}: training.members {recipe.training.members}"
    for feature in (*recipe.query_tower.features, *recipe.item_tower.features):
        if isinstance(feature, TextInput) and feature.rate is not None:
            raise RecipeError(
                f"{where}: feature {feature.name} trains its text encoder, of which there is one for all members; "
                "freeze it, or leave members at 1"
            )


def _check_values(history: HistoryInput, interactions: Interactions, where: str) -> None:
    """Raises where what a history reads of its events is not there, or stands twice."""
    types = {name: attribute.type for name, attribute in interactions.attributes.items()}
    names = [
        value.name if isinstance(value, CategoricalValue | NumericValue) else value.kind for value in history.values
    ]
    if len(set(names)) != len(names):
        raise RecipeError(f"{where}: values {names} are not distinct")
    for value in history.values:
        if not isinstance(value, CategoricalValue | NumericValue):
            continue
        allowed = ("string", "int") if isinstance(value, CategoricalValue) else ("int", "float")
        if value.name in (TIME, "age", "gap"):
            raise RecipeError(f"{where}: value {value.name}: the name is taken by the times; choose another one")
        if value.name not in types:
            raise RecipeError(
                f"{where}: value {value.name}: no such attribute; add it under [interactions.attributes] "
                f"(there are {sorted(types)})"
            )
        if types[value.name] not in allowed:
            raise RecipeError(
                f"{where}: value {value.name}: kind {value.kind} reads type {' or '.join(allowed)}, the attribute is "
                f"of type {types[value.name]}"
            )
    if history.reads_times and interactions.time is None:
        raise RecipeError(f"{where}: values of kind age and gap need interactions.time, the column of the time")


def _check_format(interactions: Interactions, source: str) -> None:
    """Raises where a table lacks a column, or sequences have a key that only a table can have."""
    if interactions.format == "table":
        for key in ("user", "item"):
            if getattr(interactions, key) is None:
                raise RecipeError(
                    f"{source}: interactions.{key}: missing; a table needs the column of the {key} id (or is "
                    'format = "sequences" meant?)'
                )
        return
    for field in dataclasses.fields(Interactions):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.name not in ("path", "format") and getattr(interactions, field.name) != default:
            raise RecipeError(
                f"{source}: interactions.{field.name}: {getattr(interactions, field.name)!r} makes no sense where "
                f'format is "sequences", which holds ids alone; remove it, or use format = "table"'
            )


def _check_prior(recipe: Recipe, source: str) -> None:
    if all(f.name != ITEM_ID for f in recipe.item_tower.features):
        raise RecipeError(
            f"{source}: training.prior_weight needs the feature item_id in the item_tower: each item has its own"
        )
    if recipe.interactions.time is None:
        raise RecipeError(f"{source}: training.prior_weight needs interactions.time, to know what was taken lately")


def _check_training(training: Training, source: str) -> None:
    """Raises where keys do not go together: a loss would quietly not use one, or use it wrongly."""
    for wrong, key, losses in (
        (training.queue > 0, "queue", ("in_batch_softmax",)),
        (training.log_q == "streaming", 'log_q = "streaming"', ("in_batch_softmax",)),
        (training.hard_negatives > 0, "hard_negatives", ("sampled_softmax",)),
        (training.binary_share > 0, "binary_share", ("sampled_softmax",)),
    ):
        if wrong and training.loss not in losses:
            raise RecipeError(f"{source}: training.{key} goes with loss {' or '.join(losses)}, not {training.loss}")
    if training.loss == "gbce" and training.sampling != "uniform":
        raise RecipeError(
            f"{source}: training.loss gbce is calibrated for uniform negatives; leave out training.sampling"
        )
