"""A bundle, asked the way that the services would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bundle.errors import BundleRefused
from bundle.event_values import HistoryCategorical, HistoryNumeric, HistoryTimes, RequestTime
from bundle.features import Categorical, Feature, FeatureSchema, History, MultiCategorical, text_encoder_specs
from bundle.items import ItemTable
from bundle.manifest import ITEMS, QUERY_TOWER, VECTORS, VOCABULARIES
from bundle.store import BundleStore
from bundle.texts import Text
from trainer.data import Dataset, Events
from trainer.embeddings import context_columns
from trainer.event_schema import attribute_of, history_columns
from trainer.export import OUTPUT, SIGNATURE
from trainer.quiet import quiet_stderr
from trainer.recipe import USER_ID, Recipe, query_attributes
from trainer.text.lite import opener

_BATCH = 1024


class NotComparable(Exception):
    """The bundle cannot answer these queries; the text says why. Nobody outside the trainer sees it."""


@dataclass(frozen=True, eq=False)
class AskedBundle:
    """A bundle, opened to be asked by users of a data set.

    Attributes:
        version: of the bundle.
        schema: of its queries.
        vectors: [item_count, dim] float32, unit length.
        item_ids: [item_count] external ids.
        runner: of its LiteRT tower.
        recipe: of the users who ask.
    """

    version: str
    schema: FeatureSchema
    vectors: np.ndarray
    item_ids: tuple[str, ...]
    runner: Any
    recipe: Recipe

    @staticmethod
    def open(store: BundleStore, version: str, recipe: Recipe, dataset: Dataset) -> AskedBundle:
        """Returns the bundle, verified.

        Args:
            store: that holds it.
            version: of the bundle.
            recipe: types of the users' attributes.
            dataset: whose users are to ask, and whose items are to be ranked.

        Raises:
            NotComparable: it is damaged, reads features that these users do not have, or shares no item.
            BundleNotFound: it was removed.
        """
        try:
            manifest = store.verify(version, [QUERY_TOWER, VECTORS, ITEMS, VOCABULARIES])
            specs = text_encoder_specs(manifest.feature_schema)
            store.verify(version, [path for spec in specs for path in (spec.tokenizer_path, spec.encoder_path)])
        except BundleRefused as refused:
            raise NotComparable(f"it is damaged: {refused.message}") from refused
        folder = store.path(version)
        try:
            vocabularies = json.loads((folder / VOCABULARIES).read_text(encoding="utf-8"))
            schema = FeatureSchema.from_json(manifest.feature_schema, vocabularies, opener(folder))
            item_ids = ItemTable.read(folder / ITEMS, {}).ids
            with quiet_stderr():
                runner = Interpreter(model_path=str(folder / QUERY_TOWER)).get_signature_runner(SIGNATURE)
                runner(**schema.encode({}, 1))  # the first answer makes its notes
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise NotComparable(f"it cannot be opened: {error}") from error
        for feature in schema.features:
            _check_feature(feature, recipe)
        if not set(item_ids) & set(dataset.items.ids):
            raise NotComparable("none of its items is in this catalogue")
        return AskedBundle(version, schema, np.load(folder / VECTORS, mmap_mode="r"), item_ids, runner, recipe)

    def embed(self, dataset: Dataset, known: Events, users: np.ndarray, asked: Events) -> np.ndarray:
        """Returns the queries of `users` [n], with the history of `known`, asked at `asked`.

        [n, dim] float32.
        """
        of_users = {USER_ID: dataset.user_ids, **dataset.user_columns}
        columns: dict[str, Any] = {
            feature.name: [of_users[feature.name][user] for user in users]
            for feature in self.schema.features
            if feature.name in of_users and not isinstance(feature, History)
        }
        columns |= history_columns(self.schema, dataset, known, users, asked)
        # What this recipe does not read of its events is missing.
        contexts = context_columns(self.recipe, asked, users, len(dataset.user_ids))
        columns |= {f.name: contexts[f.name] for f in self.schema.subset(contexts).features}
        inputs = self.schema.encode(columns, len(users))
        found = [
            np.array(self.runner(**{name: values[start : start + _BATCH] for name, values in inputs.items()})[OUTPUT])
            for start in range(0, len(users), _BATCH)
        ]
        return np.concatenate(found)

    def rows(self, rows_by_id: Mapping[str, int]) -> np.ndarray:
        """Returns the row of each of its items in another catalogue, -1 where that lacks it: [item_count] int64."""
        return np.array([rows_by_id.get(item_id, -1) for item_id in self.item_ids], dtype=np.int64)


def _check_feature(feature: Feature, recipe: Recipe) -> None:
    """Raises where the users of a recipe cannot fill a feature."""
    attributes = query_attributes(recipe)
    if isinstance(feature, HistoryTimes | RequestTime):
        if recipe.interactions.time is None:
            raise NotComparable(f"it reads the feature {feature.name!r}, and this recipe's events have no time")
        return
    if isinstance(feature, HistoryCategorical | HistoryNumeric):
        _check_value(feature, recipe)
        return
    if isinstance(feature, History):
        found, allowed = "string", (feature.value_type,)
    elif feature.name == USER_ID:
        found, allowed = "string", (feature.value_type,) if isinstance(feature, Categorical) else ()
    elif feature.name not in attributes:
        raise NotComparable(f"it reads the feature {feature.name!r}, which this recipe's users do not have")
    elif isinstance(feature, Text):
        found, allowed = attributes[feature.name].type, ("string",)
    else:
        found = attributes[feature.name].type
        if isinstance(feature, MultiCategorical):
            allowed = ("string_list",)
        else:
            allowed = (feature.value_type,) if isinstance(feature, Categorical) else ("int", "float")
    if found not in allowed:
        raise NotComparable(f"its feature {feature.name!r} is {feature.kind}, this recipe's is of type {found}")


def _check_value(feature: HistoryCategorical | HistoryNumeric, recipe: Recipe) -> None:
    """Raises where the events of a recipe cannot fill a value of a history."""
    attribute = recipe.interactions.attributes.get(attribute_of(feature))
    if attribute is None:
        raise NotComparable(f"it reads the feature {feature.name!r}, which this recipe's events do not have")
    allowed = (feature.value_type,) if isinstance(feature, HistoryCategorical) else ("int", "float")
    if attribute.type not in allowed:
        raise NotComparable(
            f"its feature {feature.name!r} is of {feature.value_type}s, this recipe's is of type {attribute.type}"
        )
