"""Recommendations for one query by one or two open bundles."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from console.services.clients import PairClients
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.cli.arguments import parse_condition, parse_diversify
from two_tower_client.cli.unknown_values import find_unknown_features
from two_tower_client.errors import InvalidRequest, ModelNotServed, NoBundle
from two_tower_client.features import Features
from two_tower_client.filters import all_of
from two_tower_client.results import Retrieval, StoredFeatures
from two_tower_client.search import Ranking, Search, SearchOptions, with_embeddings

K_MAX = 100
_CONDITIONS_MAX = 20
_ATTRIBUTES_MAX = 16
_EXCLUDED_MAX = 10_000
_USER_ID_MAX = 1024

_TYPES = {
    ann_pb2.ATTRIBUTE_TYPE_STRING: "string",
    ann_pb2.ATTRIBUTE_TYPE_INT: "int",
    ann_pb2.ATTRIBUTE_TYPE_FLOAT: "float",
    ann_pb2.ATTRIBUTE_TYPE_STRING_LIST: "string_list",
}


@dataclass(frozen=True)
class Choice:
    """A bundle of a pair that can be asked.

    Attributes:
        key: What the form sends: ``0 live``, or position of the pair and version.
        pair: Position of the pair.
        bundle_version: Version of the bundle.
        label: What a person reads.
        attributes: Types of the attributes of its items, by name.
    """

    key: str
    pair: int
    bundle_version: str
    label: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class OpenServices:
    """The status of a pair of services.

    Attributes:
        tower: Status of the query tower service.
        ann: Status of the ANN service.
    """

    tower: query_pb2.GetServingStatusResponse
    ann: ann_pb2.GetServingStatusResponse

    def model_of(self, model_version: str) -> query_pb2.OpenModel:
        """Returns an open model of the query tower service.

        Raises:
            ModelNotServed: It is not open there.
        """
        for model in self.tower.models:
            if model.model_version == model_version:
                return model
        open_ = tuple(model.model_version for model in self.tower.models)
        raise ModelNotServed(
            f"the query tower service has not opened model {model_version}; it has {', '.join(open_) or 'none'}", open_
        )

    def bundle_of(self, bundle_version: str) -> ann_pb2.OpenBundle:
        """Returns an open bundle of the ANN service.

        Raises:
            InvalidRequest: It is not open there.
        """
        for bundle in self.ann.bundles:
            if bundle.bundle_version == bundle_version:
                return bundle
        raise InvalidRequest(f"bundle {bundle_version} is no longer open: load the page again")


def ask_status(clients: PairClients) -> OpenServices:
    """Returns the status of a pair.

    Raises:
        NoBundle: A service has no bundle open.
        TwoTowerError: A service does not answer, or refuses the token.
    """
    services = OpenServices(clients.retriever.query_tower.status(), clients.retriever.ann.status())
    if not services.tower.models or not services.ann.bundles:
        raise NoBundle("a service has loaded no bundle yet: see the page of the fleet")
    return services


def find_choices(pairs: Mapping[int, tuple[str, OpenServices]]) -> list[Choice]:
    """Returns the bundles that can be asked, the live one of each pair first.

    Args:
        pairs: Name and status of each pair that answers, by its position.
    """
    choices: list[Choice] = []
    for number, (name, services) in pairs.items():
        models = {model.model_version for model in services.tower.models}
        for position, bundle in enumerate(services.ann.bundles):
            if bundle.model_version in models:
                version = bundle.bundle_version
                label = f"{version} ({'live' if position == 0 else 'previous'})"
                label = f"{name}: {label}" if len(pairs) > 1 else label
                # The live bundle by this name, so that a page that was opened before a swap asks the new one.
                key = f"{number} {'live' if position == 0 else version}"
                choices.append(Choice(key, number, version, label, attribute_types(bundle)))
    return choices


def attribute_types(bundle: ann_pb2.OpenBundle) -> dict[str, str]:
    """Returns the types of the attributes of the items, by name, as the manifest writes them."""
    return {attribute.name: _TYPES.get(attribute.type, "") for attribute in bundle.attributes}


@dataclass(frozen=True)
class Question:
    """What a person asks for.

    Attributes:
        k: Number of items, 1 to 100.
        conditions: Conditions on attributes, such as ``year>=1990``.
        exclude: Ids of items to leave out.
        exclude_history: Whether to leave out the items of the history too.
        diversity: Weight of diversity against relevance, 0 to 1.
        at_most: Group limits, such as ``genres=3``.
        ranking: What orders the items.
        text: Text for ranking "lexical" and "fused".
        user_id: User whose stored features the services add; empty for none.
    """

    k: int
    conditions: Sequence[str]
    exclude: Sequence[str]
    exclude_history: bool
    diversity: float
    at_most: Sequence[str]
    ranking: Ranking
    text: str
    user_id: str

    @staticmethod
    def parse(raw: Any) -> Question:
        """Returns the question that JSON describes.

        Raises:
            InvalidRequest: A value has another type, or is out of range.
        """
        k, diversity = raw.get("k", 10), raw.get("diversity", 0)
        if type(k) is not int or not 1 <= k <= K_MAX:
            raise InvalidRequest.in_field("number of items", f"is {k!r:.40}, expected 1 to {K_MAX}")
        if type(diversity) not in (int, float) or not 0 <= diversity <= 1:
            raise InvalidRequest.in_field("diversity", f"is {diversity!r:.40}, expected 0 to 1")
        text, user_id = raw.get("text", ""), raw.get("user_id", "")
        if not isinstance(text, str) or not isinstance(user_id, str) or len(user_id) > _USER_ID_MAX:
            raise InvalidRequest(
                f"the words or the user id are no text, or the id has over {_USER_ID_MAX:,} characters"
            )
        return Question(
            k,
            _texts(raw, "conditions", _CONDITIONS_MAX),
            _texts(raw, "exclude", _EXCLUDED_MAX),
            raw.get("exclude_history") is True,
            float(diversity),
            _texts(raw, "at_most", 4),
            cast("Ranking", str(raw.get("ranking", "embedding"))),
            text.strip(),
            user_id.strip(),
        )

    def to_options(self, bundle: ann_pb2.OpenBundle) -> SearchOptions:
        """Returns the options of a search in a bundle.

        Raises:
            InvalidRequest: A condition names an attribute that the items lack, or has a value of another type.
        """
        types = {attribute.name: attribute.type for attribute in bundle.attributes}
        conditions = [parse_condition(condition, types, "filter") for condition in self.conditions]
        return {
            "filter": all_of(*conditions) if conditions else None,
            "exclude": list(self.exclude),
            "return_attributes": list(types)[:_ATTRIBUTES_MAX],
            "diversify": parse_diversify(self.diversity, self.at_most),
            "ranking": self.ranking,
        }


@dataclass(frozen=True)
class Result:
    """The answer of one bundle.

    Attributes:
        retrieval: Items.
        embed_ms: Time of the call of the query tower service, in milliseconds; None if it was not called.
        search_ms: Time of the call of the ANN service, in milliseconds.
        history: Ids of the items of the history that the model was given, the oldest first.
        stored_features: What the feature store of the services did; see `two_tower_client.results.StoredFeatures`.
        left_out: Features that its model does not read.
        unknown: Values that its model does not know, as texts such as ``history=p204``.
    """

    retrieval: Retrieval
    embed_ms: float | None
    search_ms: float
    history: tuple[str, ...]
    stored_features: StoredFeatures
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]


def recommend(
    clients: PairClients, services: OpenServices, choice: Choice, features: Features, question: Question
) -> Result:
    """Returns the items that a bundle recommends.

    Args:
        clients: Clients of the pair.
        services: Its status.
        choice: Bundle to ask.
        features: Features of the query. Those that the model does not read are left out.
        question: What is asked for.

    Raises:
        TwoTowerError: See `two_tower_client.errors`.
    """
    bundle = services.bundle_of(choice.bundle_version)
    model = services.model_of(bundle.model_version)
    tower, ann = clients.retriever.query_tower, clients.retriever.ann
    search = Search(k=question.k, text=question.text, **question.to_options(bundle))
    known = {feature.name for feature in model.features}
    read = {name: value for name, value in features.items() if name in known}
    history, embed_ms, unknown = _history(read, model), None, list[str]()
    stored_features: StoredFeatures = ""
    started_s = time.perf_counter()
    if question.ranking != "lexical":
        users = [question.user_id] if question.user_id else []
        embeddings = tower.embed([read], model.model_version, user_ids=users, return_histories=True, share=False)
        embed_ms = 1000 * (time.perf_counter() - started_s)
        search = with_embeddings([search], embeddings)[0]
        stored_features = embeddings.stored_features[0] if embeddings.stored_features else ""
        history = next(iter(embeddings.histories), history)
        if any(embeddings.unknown_values):
            single = query_pb2.GetServingStatusResponse(models=[model], max_batch_size=services.tower.max_batch_size)
            unknown = find_unknown_features(tower, single, read, model.model_version)
        started_s = time.perf_counter()
    if question.exclude_history:
        search = replace(search, exclude=list(dict.fromkeys([*question.exclude, *history])))
    answer = ann.search([search], model_version=model.model_version, bundle_version=bundle.bundle_version, share=False)
    search_ms = 1000 * (time.perf_counter() - started_s)
    left_out = tuple(name for name in features if name not in known)
    return Result(answer.retrievals[0], embed_ms, search_ms, history, stored_features, left_out, tuple(unknown))


def _history(features: Features, model: query_pb2.OpenModel) -> tuple[str, ...]:
    """Returns the ids of the histories of a query, the oldest first."""
    ids: list[str] = []
    for feature in model.features:
        values = features.get(feature.name)
        if feature.kind == query_pb2.FEATURE_KIND_HISTORY and isinstance(values, list | tuple):
            ids += map(str, cast("list[object]", values))
    return tuple(ids)


def _texts(raw: Any, name: str, most: int) -> tuple[str, ...]:
    values = raw.get(name, [])
    if not isinstance(values, list) or len(values) > most or not all(isinstance(value, str) for value in values):
        raise InvalidRequest.in_field(name, f"is no list of at most {most:,} texts")
    return tuple(values)
