"""Finds out which values of a request are unknown, so that the command line can name them to a person.

An answer has only the number of unknown values of features, and ignores unknown ids that are to be left out, and boosts
that no item matches. These functions ask the services once more.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.ann import AnnClient
from two_tower_client.errors import TwoTowerError, UnknownItem
from two_tower_client.features import FeatureValue
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.reranking import Boost
from two_tower_client.results import Retrieval
from two_tower_client.search import Search

_MOST_ITEMS = 1000
"""Largest number of items that one search may name."""

_WITH_VOCABULARY = (
    query_pb2.FEATURE_KIND_CATEGORICAL,
    query_pb2.FEATURE_KIND_HISTORY,
    query_pb2.FEATURE_KIND_MULTI_CATEGORICAL,
)


def find_unknown_features(
    tower: QueryTowerClient,
    status: query_pb2.GetServingStatusResponse,
    features: Mapping[str, FeatureValue],
    model_version: str,
) -> list[str]:
    """Returns the values that are in no vocabulary of the model, as texts such as ``history=p204``, without repeats.

    It embeds each value alone. Features of the events of a history are left out, as they cannot be sent alone.

    Args:
        tower: Client of the query tower service.
        status: Its status, with the features that it reads.
        features: Features of a query, by name.
        model_version: Model that embedded the query.

    Returns:
        The values, in the order of the features. Empty if the service cannot be asked.
    """
    alone: dict[str, dict[str, FeatureValue]] = {}
    for feature in status.models[0].features if status.models else ():
        if feature.name not in features or feature.history or feature.kind not in _WITH_VOCABULARY:
            continue
        given = features[feature.name]
        values = list(given) if isinstance(given, list | tuple) else [given]
        is_history = feature.kind == query_pb2.FEATURE_KIND_HISTORY
        for value in values[-feature.max_values :] if is_history else values[: feature.max_values]:
            sent = cast("FeatureValue", [value] if isinstance(given, list | tuple) else value)
            alone[f"{feature.name}={value}"] = {feature.name: sent}
    queries, counts = list(alone.values()), list[int]()
    try:
        for start in range(0, len(queries), status.max_batch_size):
            batch = queries[start : start + status.max_batch_size]
            counts += tower.embed(batch, model_version).unknown_values or [0] * len(batch)
    except TwoTowerError:
        return []
    return [text for text, count in zip(alone, counts, strict=True) if count]


def find_unknown_items(ann: AnnClient, item_ids: Sequence[str], retrieval: Retrieval) -> list[str]:
    """Returns the ids that the bundle of a retrieval lacks, at most the first ten of the first 1,000 ids.

    Empty if the service cannot be asked.
    """
    search = Search(similar_to=list(item_ids[:_MOST_ITEMS]), k=1)
    try:
        ann.search([search], model_version=retrieval.model_version, bundle_version=retrieval.bundle_version)
    except UnknownItem as error:
        return list(error.item_ids)
    except TwoTowerError:
        pass
    return []


def split_at_commas(ann: AnnClient, texts: Sequence[str]) -> list[str]:
    """Returns the ids that texts name: a text with commas is one id if an item has it, else several ids.

    It asks the service about each text with a comma, and nothing if there is none.

    Raises:
        TwoTowerError: If the service cannot be asked.
    """
    return [item_id for text in texts for item_id in (_split(ann, text) if "," in text else [text])]


def find_unmatched(ann: AnnClient, boosts: Sequence[Boost], retrieval: Retrieval) -> list[int]:
    """Returns the positions of the boosts whose filter no item of the bundle of a retrieval matches.

    Empty if the service cannot be asked.
    """
    searches = [Search(popular=True, k=1, filter=boost.filter) for boost in boosts]
    try:
        answer = ann.search(searches, model_version=retrieval.model_version, bundle_version=retrieval.bundle_version)
    except TwoTowerError:
        return []
    return [position for position, found in enumerate(answer.retrievals) if not len(found)]


def _split(ann: AnnClient, text: str) -> list[str]:
    try:
        ann.search([Search(similar_to=text, k=1)])
    except UnknownItem:
        return [part for part in text.split(",") if part]
    return [text]
