"""Embeds users of a data set with the query tower of a deployed bundle, if it reads features that they have."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryNumeric, HistoryTimes, RequestTime
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical
from retrieval.bundle.features.schema import Feature
from retrieval.bundle.features.text import Text
from retrieval.inference.deployed_bundle import DeployedBundle
from retrieval.store.store import BundleStore
from trainer.data.dataset import Dataset, Events
from trainer.features.event_schema import attribute_of, history_columns
from trainer.model.embeddings import context_columns
from trainer.quiet_tensorflow import quiet_stderr
from trainer.recipe.recipe import USER_ID, Recipe, query_attributes


class NotComparable(Exception):
    """Raised if a bundle cannot embed the users of a data set; the message is the reason, which callers report."""


def open_bundle(store: BundleStore, version: str, recipe: Recipe, dataset: Dataset) -> DeployedBundle:
    """Returns a bundle that can embed the users of a data set.

    Args:
        store: Store of the bundle.
        version: Bundle version.
        recipe: Recipe of the data set, which sets the types of the users' attributes.
        dataset: Users to embed, and items to rank.

    Raises:
        NotComparable: The bundle is damaged, reads features that these users do not have, or has no item of the data
            set.
        BundleNotFound: The bundle was removed.
    """
    try:
        with quiet_stderr():
            bundle = DeployedBundle.open(store, version)
            bundle.embed({}, 1)  # LiteRT prints notes at the first call
    except BundleRefused as refused:
        raise NotComparable(f"it is damaged: {refused.message}") from refused
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise NotComparable(f"it cannot be opened: {error}") from error
    for feature in bundle.query_tower.schema.features:
        _check_feature(feature, recipe)
    if not set(bundle.item_ids) & set(dataset.items.ids):
        raise NotComparable("none of its items is in this catalogue")
    return bundle


def embed_users(
    bundle: DeployedBundle, recipe: Recipe, dataset: Dataset, known: Events, users: np.ndarray, requests: Events
) -> np.ndarray:
    """Returns the embeddings of the queries of users by a deployed bundle: [n, dim] float32, unit length.

    Args:
        bundle: Deployed bundle, opened with `open_bundle` for the same recipe and data set.
        recipe: Recipe of the data set. Features of the request that it does not read are sent as missing.
        dataset: Users and items.
        known: Events of the histories.
        users: [n] int, row numbers of the users.
        requests: Events after those of the histories; the first event of each user gives the time and the features of
            the request.
    """
    schema = bundle.query_tower.schema
    user_columns = {USER_ID: dataset.user_ids, **dataset.user_columns}
    columns: dict[str, Any] = {
        feature.name: [user_columns[feature.name][user] for user in users]
        for feature in schema.features
        if feature.name in user_columns and not isinstance(feature, History)
    }
    columns |= history_columns(schema, dataset, known, users, requests)
    contexts = context_columns(recipe, requests, users, len(dataset.user_ids))
    columns |= {name: contexts[name] for name in contexts if name in schema.by_name}
    return bundle.embed(columns, len(users))


def _check_feature(feature: Feature, recipe: Recipe) -> None:
    """Checks that the users of a recipe have a feature in the type that a bundle reads.

    Raises:
        NotComparable: The users lack the feature, or have it in another type.
    """
    attributes = query_attributes(recipe)
    if isinstance(feature, HistoryTimes | RequestTime):
        if recipe.interactions.time is None:
            raise NotComparable(f"it reads the feature {feature.name!r}, and this recipe's events have no time")
        return
    if isinstance(feature, HistoryCategorical | HistoryNumeric):
        _check_value(feature, recipe)
        return
    if isinstance(feature, History):
        given, allowed = "string", (feature.value_type,)
    elif feature.name == USER_ID:
        given, allowed = "string", (feature.value_type,) if isinstance(feature, Categorical) else ()
    elif feature.name not in attributes:
        raise NotComparable(f"it reads the feature {feature.name!r}, which this recipe's users do not have")
    elif isinstance(feature, Text):
        given, allowed = attributes[feature.name].type, ("string",)
    else:
        given = attributes[feature.name].type
        if isinstance(feature, MultiCategorical):
            allowed = ("string_list",)
        else:
            allowed = (feature.value_type,) if isinstance(feature, Categorical) else ("int", "float")
    if given not in allowed:
        raise NotComparable(f"its feature {feature.name!r} is {feature.kind}, this recipe's is of type {given}")


def _check_value(feature: HistoryCategorical | HistoryNumeric, recipe: Recipe) -> None:
    """Checks that the events of a recipe have an event feature in the type that a bundle reads.

    Raises:
        NotComparable: The events lack the feature, or have it in another type.
    """
    attribute = recipe.interactions.attributes.get(attribute_of(feature))
    if attribute is None:
        raise NotComparable(f"it reads the feature {feature.name!r}, which this recipe's events do not have")
    allowed = (feature.value_type,) if isinstance(feature, HistoryCategorical) else ("int", "float")
    if attribute.type not in allowed:
        raise NotComparable(
            f"its feature {feature.name!r} is of {feature.value_type}s, this recipe's is of type {attribute.type}"
        )
