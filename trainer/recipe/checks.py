"""Checks that the keys of a recipe do not contradict each other; each check raises `RecipeError` otherwise."""

from __future__ import annotations

import dataclasses

from retrieval.bundle.features.event_kinds import REQUEST_TIME, TIME
from trainer.errors import RecipeError
from trainer.recipe.feature_inputs import (
    CategoricalEventInput,
    CategoricalInput,
    HistoryInput,
    NumericEventInput,
    TextInput,
)
from trainer.recipe.recipe import (
    CLOCK,
    ID,
    ITEM_ID,
    USER_ID,
    Recipe,
    lexical_attributes,
    query_attributes,
)
from trainer.recipe.tables import SERVED_COLUMNS, Interactions
from trainer.recipe.training import Training

_SERVED_WEIGHT = ("weight", "weight")
"""Key, and the only value that it can have where the format is served."""


def check(recipe: Recipe, source: str) -> None:
    """Checks that the keys of a recipe do not contradict each other.

    Args:
        recipe: Recipe whose keys are each in range.
        source: Name of the recipe, for messages.

    Raises:
        RecipeError: Keys contradict each other; the message names them.
    """
    _check_features(recipe, source)
    _check_search(recipe, source)
    _check_format(recipe.interactions, source)
    if recipe.interactions.min_rating is not None and recipe.interactions.rating is None:
        raise RecipeError(f"{source}: interactions.min_rating needs interactions.rating, the column it applies to")
    _check_training(recipe.training, source)
    if recipe.training.prior_weight:
        _check_prior(recipe, source)
    _check_histories(recipe, source)
    if recipe.training.ensemble_size > 1:
        _check_ensemble(recipe, source)
    _check_split(recipe, source)
    _check_attribute_names(recipe, source)
    if recipe.index.storage != "float32" and recipe.index.kind == "annoy":
        raise RecipeError(
            f"{source}: index.storage is {recipe.index.storage}, and annoy holds float32 alone; set index.kind to "
            "faiss_ivf or faiss_hnsw, or leave storage out"
        )


def _check_features(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if a feature has no attribute, or an attribute of a type that it cannot read."""
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
                _check_event_features(feature, recipe.interactions, where)
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


def _check_search(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if lexical search has no text attribute to search."""
    item_types = {} if recipe.items is None else {name: a.type for name, a in recipe.items.attributes.items()}
    for name in recipe.search.attributes:
        if item_types.get(name) != "string":
            raise RecipeError(
                f"{source}: search.attributes: {name} is not an attribute of the items of type string (there are "
                f"{sorted(n for n, kind in item_types.items() if kind == 'string')})"
            )
    if recipe.search.serve and not lexical_attributes(recipe):
        raise RecipeError(
            f"{source}: search.serve needs a text of the items; name attributes under [search], or give the item tower "
            "a feature of kind text"
        )


def _check_histories(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if the recipe has histories that do not fit its order of events, or each other."""
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
            f"{source}: query_tower: a history with encoder transformer has to be the only one, as it counts positions "
            f"from the oldest item of a training sequence; there are {[feature.name for feature in histories]}"
        )


def _check_split(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if the kind of split needs a column and none is named, or ignores a named column."""
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


def _check_attribute_names(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if an attribute has the name of an id or of another attribute."""
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


def _check_ensemble(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if the members of an ensemble could not be joined into one model."""
    where = f"{source}: training.ensemble_size {recipe.training.ensemble_size}"
    for feature in (*recipe.query_tower.features, *recipe.item_tower.features):
        if isinstance(feature, TextInput) and feature.encoder_learning_rate is not None:
            raise RecipeError(
                f"{where}: feature {feature.name} trains its text encoder, which all pairs of towers of an "
                "ensemble share; freeze it, or leave ensemble_size at 1"
            )


def _check_event_features(history: HistoryInput, interactions: Interactions, where: str) -> None:
    """Raises `RecipeError` if an event feature of a history is duplicated, or has no attribute that it can read."""
    types = {name: attribute.type for name, attribute in interactions.attributes.items()}
    names = [
        f.name if isinstance(f, CategoricalEventInput | NumericEventInput) else f.kind for f in history.event_features
    ]
    if len(set(names)) != len(names):
        raise RecipeError(f"{where}: event features {names} are not distinct")
    for feature in history.event_features:
        if not isinstance(feature, CategoricalEventInput | NumericEventInput):
            continue
        allowed = ("string", "int") if isinstance(feature, CategoricalEventInput) else ("int", "float")
        if feature.name in (TIME, "age", "gap"):
            raise RecipeError(
                f"{where}: event feature {feature.name}: the name is taken by the times; choose another one"
            )
        if feature.name not in types:
            raise RecipeError(
                f"{where}: event feature {feature.name}: no such attribute; add it under [interactions.attributes] "
                f"(there are {sorted(types)})"
            )
        if types[feature.name] not in allowed:
            raise RecipeError(
                f"{where}: event feature {feature.name}: kind {feature.kind} reads type {' or '.join(allowed)}, "
                f"the attribute is of type {types[feature.name]}"
            )
    if history.reads_times and interactions.time is None:
        raise RecipeError(f"{where}: event features of kind age and gap need interactions.time, the column of the time")


def _check_format(interactions: Interactions, source: str) -> None:
    """Raises `RecipeError` if a table lacks a column, or another format has a key that only a table can have."""
    if interactions.format == "table":
        for key in ("user", "item"):
            if getattr(interactions, key) is None:
                raise RecipeError(
                    f"{source}: interactions.{key}: missing; a table needs the column of the {key} id (or is "
                    'format = "sequences" meant?)'
                )
        return
    is_served = interactions.format == "served"
    allowed = {"path", "format", *(("attributes",) if is_served else ())}
    for field in dataclasses.fields(Interactions):
        default = field.default_factory() if callable(field.default_factory) else field.default
        own = SERVED_COLUMNS.get(field.name) if is_served else None
        value = getattr(interactions, field.name)
        if field.name in allowed or value in (default, own) or (is_served and (field.name, value) == _SERVED_WEIGHT):
            continue
        what = "names its columns itself" if is_served else "holds ids alone"
        raise RecipeError(
            f"{source}: interactions.{field.name}: {value!r} makes no sense where "
            f'format is "{interactions.format}", which {what}; remove it, or use format = "table"'
        )


def _check_prior(recipe: Recipe, source: str) -> None:
    """Raises `RecipeError` if the recipe has a recent-popularity prior, but no item ids or no times."""
    if all(f.name != ITEM_ID for f in recipe.item_tower.features):
        raise RecipeError(
            f"{source}: training.prior_weight needs the feature item_id in the item_tower: each item has its own"
        )
    if recipe.interactions.time is None:
        raise RecipeError(f"{source}: training.prior_weight needs interactions.time, which says what is recent")


def _check_training(training: Training, source: str) -> None:
    """Raises `RecipeError` if a key of ``[training]`` has no effect with the loss, or a value that it cannot use."""
    for is_used, key, losses in (
        (training.queue > 0, "queue", ("in_batch_softmax",)),
        (training.log_q == "streaming", 'log_q = "streaming"', ("in_batch_softmax",)),
        (training.hard_negatives > 0, "hard_negatives", ("sampled_softmax",)),
        (training.bce_weight > 0, "bce_weight", ("sampled_softmax",)),
    ):
        if is_used and training.loss not in losses:
            raise RecipeError(f"{source}: training.{key} goes with loss {' or '.join(losses)}, not {training.loss}")
    if training.loss == "gbce" and training.sampling != "uniform":
        raise RecipeError(
            f"{source}: training.loss gbce is calibrated for uniform negatives; leave out training.sampling"
        )
